"""What a model costs: parameters, FLOPs and bytes from shapes, and the table of chips."""

from bigmodel.costs.chips import CHIPS, GENERATIONS, Chip, Generation, chip, mfu, peak_flops
from bigmodel.costs.decoder import (
    CONVENTIONS,
    GATED,
    Flops,
    decode_flops,
    forward_flops,
    letters,
    mean_keys,
    parameter_groups,
    parameters,
    prefill_flops,
    train_flops,
    windows,
)
from bigmodel.costs.programs import cpu_matmul_flops, jaxpr_flops, memory
from bigmodel.costs.topology import Topology

__all__ = [
    "CHIPS",
    "CONVENTIONS",
    "GATED",
    "GENERATIONS",
    "Chip",
    "Flops",
    "Generation",
    "Topology",
    "chip",
    "cpu_matmul_flops",
    "decode_flops",
    "forward_flops",
    "jaxpr_flops",
    "letters",
    "mean_keys",
    "memory",
    "mfu",
    "parameter_groups",
    "parameters",
    "peak_flops",
    "prefill_flops",
    "train_flops",
    "windows",
]
