"""A link whose transfers all go on at once, each with an even share of it."""


class Shared:
    """Transfers between a device and its host in one direction.

    The host's runtime has up to a hundred under way and its engines take turns, so a small one that
    starts last is not held up by all large ones before it.

    Attributes:
        now: seconds, up to where it is known what went through.
        left: of each transfer the seconds that it would still take with the link to itself.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.left: dict[int, float] = {}
        self.started = 0

    def start(self, at: float, seconds: float) -> int:
        """Something starts that takes so long alone; returns its number."""
        self.advance(at)
        self.now = max(self.now, at)
        self.started += 1
        self.left[self.started] = seconds
        return self.started

    def end(self, number: int, at: float) -> float:
        """When a transfer is through, if nothing else starts before; not before `at`."""
        self.advance(at)
        while number in self.left:
            self.finish_next()
        return max(self.now, at)

    def advance(self, to: float) -> None:
        """What goes through up to a time."""
        while self.left and self.now + min(self.left.values()) * len(self.left) <= to:
            self.finish_next()
        share = max(0.0, to - self.now) / max(1, len(self.left))
        self.left = {number: seconds - share for number, seconds in self.left.items()}
        self.now = max(self.now, to)

    def finish_next(self) -> None:
        """Goes on until the transfer that has the least left is through."""
        next_one = min(self.left, key=self.left.__getitem__)
        share = self.left.pop(next_one)
        self.now += share * (len(self.left) + 1)
        self.left = {number: seconds - share for number, seconds in self.left.items()}
