"""Of how many parts rows are."""

from typing import Self


class OnePart:
    """Rows of a single source: `pipeline.Rows` of one part, which is all of them."""

    @property
    def parts(self) -> tuple[Self, ...]:
        return (self,)

    @property
    def weights(self) -> tuple[float, ...]:
        return (1.0,)
