"""What processes must agree on before they go on together."""

import jax
import numpy as np


def from_process_0(number: int) -> int:
    """Process 0's number, on every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    with jax.transfer_guard("allow"):  # the loop refuses transfers that nobody asked for
        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


BYTES_OF_A_TEXT = 2048


def agreed(fault: str) -> str:
    """A fault of any process is a fault of all: what the first one that has any says, or ""."""
    return next(filter(None, gathered(fault)), "")


def gathered(text: str) -> list[str]:
    """What each process says, cut to `BYTES_OF_A_TEXT`; on every process."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    said = np.frombuffer(text.encode()[:BYTES_OF_A_TEXT].ljust(BYTES_OF_A_TEXT, b"\0"), np.uint8)
    with jax.transfer_guard("allow"):
        rows = multihost_utils.process_allgather(said)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows]
