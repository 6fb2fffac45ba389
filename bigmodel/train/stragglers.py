"""Which hosts hold the others up."""

import math
import statistics
from collections.abc import Sequence


def stragglers(
    seconds_by_process: Sequence[float],
    names: Sequence[str],
    *,
    factor: float = 1.5,
    least_seconds: float = 0.01,
) -> str | None:
    """One line on the hosts that are slower than the median, the slowest first, or None.

    Args:
        seconds_by_process: of each process, how long a step waits for its data. The step itself
            is no measure: all wait for the slowest in it. NaN: not known.
        names: of the hosts.
        factor: times the median from which on a host is slow.
        least_seconds: more than the median that matters; below it nobody waits noticeably.
    """
    known = [
        (seconds, name)
        for seconds, name in zip(seconds_by_process, names, strict=True)
        if math.isfinite(seconds)
    ]
    if len(known) < 2:
        return None
    # Of two the quicker one is the measure.
    median = statistics.median_low([seconds for seconds, _ in known])
    slow = [
        (seconds, name)
        for seconds, name in sorted(known, reverse=True)
        if seconds > factor * median and seconds - median > least_seconds
    ]
    if not slow:
        return None
    shown = ", ".join(f"{name} {1e3 * seconds:,.0f} ms" for seconds, name in slow[:8])
    more = f" and {len(slow) - 8} more" if len(slow) > 8 else ""
    return (
        f"slow hosts, by the time that a step waits for its data: {shown}{more}; "
        f"median of {len(known)} hosts {1e3 * median:,.0f} ms"
    )
