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


BYTES_OF_A_FAULT = 2048


def agreed(fault: str) -> str:
    """A fault of any process is a fault of all: what the first one that has any says, or ""."""
    if jax.process_count() == 1:
        return fault
    from jax.experimental import multihost_utils

    said = np.frombuffer(fault.encode()[:BYTES_OF_A_FAULT].ljust(BYTES_OF_A_FAULT, b"\0"), np.uint8)
    with jax.transfer_guard("allow"):
        faults = multihost_utils.process_allgather(said)
    first = next((row for row in faults if row.any()), said)
    return bytes(first).rstrip(b"\0").decode(errors="ignore")


def gathered(name: str, text: str) -> list[str]:
    """Every process's text, on every process; all of them must ask, for the same `name`."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    with jax.transfer_guard("allow"):
        said = np.frombuffer(text.encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.int32(said.size)).ravel()
        rows = np.zeros(max(1, sizes.max()), np.uint8)
        rows[: said.size] = said
        found = multihost_utils.process_allgather(rows)
    return [bytes(row[:size]).decode() for row, size in zip(found, sizes, strict=True)]
