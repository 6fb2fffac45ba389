"""Compilation for tests: programs that are run once want to be made fast, not to be fast."""

import importlib.metadata

# XLA_FLAGS for CPU: no optimisation of code, and none split into parts for cores that other tests
# use. Together they halve the time.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib") < "0.11":  # later ones have no such option
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
