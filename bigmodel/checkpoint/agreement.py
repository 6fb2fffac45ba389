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


def agreed(fault: str) -> str:
    """A fault of any process is a fault of all: this one's own, or the name of one that has it."""
    if jax.process_count() == 1:
        return fault
    from jax.experimental import multihost_utils

    with jax.transfer_guard("allow"):
        faulty = np.flatnonzero(multihost_utils.process_allgather(np.int32(bool(fault))))
    return fault or (f"process {faulty[0]} could not read it" if len(faulty) else "")
