"""What a model costs: parameters, FLOPs and bytes from shapes, and the table of chips."""

from bigmodel.costs.chips import CHIPS, GENERATIONS, Chip, Generation, chip, peak_flops
from bigmodel.costs.decoder import (
    CONVENTIONS,
    GATED,
    Flops,
    mean_keys,
    parameter_groups,
    parameters,
    train_flops,
    windows,
)
from bigmodel.costs.programs import cpu_matmul_flops, jaxpr_flops, memory

__all__ = [
    "CHIPS",
    "CONVENTIONS",
    "GATED",
    "GENERATIONS",
    "Chip",
    "Flops",
    "Generation",
    "chip",
    "cpu_matmul_flops",
    "jaxpr_flops",
    "mean_keys",
    "memory",
    "parameter_groups",
    "parameters",
    "peak_flops",
    "train_flops",
    "windows",
]
