"""GPUs that need not be here: what XLA asks of each, and what it does not tell of cuDNN."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax

from bigmodel import config
from bigmodel.plan import program
from bigmodel.plan.program import Instruction, Program

CUDNN = 91000  # 9.10.0, as jax writes versions of it
# By compute capability: a core's units for float32, and KiB of its fast memory, of which a block
# may have all but one.
CORES = {8: (64, 164), 9: (128, 228), 10: (128, 228)}
# jax takes three quarters of a GPU's memory at the first array, and before 0.12 a program has no
# more; then "0.75+" lets it have what CUDA and NCCL leave (docs.jax.dev, "GPU memory allocation";
# 0.94 is what NVIDIA's own runs set). Either variable changes it.
SHARE, GROWS, MOST = "0.75", (0, 12), 0.94
VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@dataclasses.dataclass(frozen=True)
class Target:
    """What XLA asks of a GPU; `text` is its GpuTargetConfigProto.

    Attributes:
        kind: as `jax.Device.device_kind` says it.
        capability: the first number of CUDA's compute capability.
        cores: streaming multiprocessors.
        clock: GHz.
        memory: bytes, as CUDA counts them: what the driver keeps is taken off.
        bandwidth: bytes/s of it.
        cache: KiB of L2.
    """

    kind: str
    capability: int
    cores: int
    clock: float
    memory: int
    bandwidth: float
    cache: int

    @property
    def text(self) -> str:
        major, minor = divmod(CUDNN // 100, 100)
        units, shared = CORES[self.capability]
        device = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 49_152,
            "shared_memory_per_core": shared * 1024,
            "shared_memory_per_block_optin": (shared - 1) * 1024,
            "threads_per_core_limit": 2048,
            "core_count": self.cores,
            "fpus_per_core": units,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 65_535,
            "block_dim_limit_z": 65_535,
            "memory_bandwidth": round(self.bandwidth),
            "l2_cache_size": self.cache * 1024,
            "clock_rate_ghz": self.clock,
            "device_memory_size": self.memory,
            "registers_per_core_limit": 65_536,
            "registers_per_block_limit": 65_536,
        }
        fields = " ".join(f"{name}: {value}" for name, value in device.items())
        capability = f"cuda_compute_capability {{ major: {self.capability} }}"
        return (
            f"gpu_device_info {{ {fields} {capability} }} "
            f'platform_name: "CUDA" device_description_str: "{self.kind}" '
            f"dnn_version_info {{ major: {major} minor: {minor} }}"
        )


# SXM boards. From github.com/openxla/xla, xla/backends/gpu/target_config/specs: of H200 the whole
# file there gives the same program as this part of it (Llama 8B, jax 0.10.2).
# fmt: off
TARGETS = {
    #              kind                     cap cores GHz   memory        bytes/s     L2
    "a100": Target("NVIDIA A100-SXM4-80GB",   8, 108, 1.41,  85100068864,  2.03904e12, 40960),
    "h100": Target("NVIDIA H100 80GB HBM3",   9, 132, 1.98,  84942979072,  3.35232e12, 51200),
    "h200": Target("NVIDIA H200 141GB HBM3e", 9, 132, 1.98,  151397597184, 4.8e12,     51200),
    "b200": Target("NVIDIA B200",            10, 148, 1.965, 191514411008, 7.67232e12, 129536),
}
# fmt: on


def devices(name: str, hosts: int, gpus: int) -> list[Any]:
    """jax's descriptions of GPUs, those of one host after those of another.

    Args:
        name: of TARGETS.
        hosts: machines.
        gpus: of each.
    """
    from jax.experimental import topologies

    made = topologies.get_topology_desc(
        platform="cuda",
        topology_name=name,
        target_config=TARGETS[name].text,
        topology=f"1x{hosts}x{gpus}",
    )
    return list(made.devices)


def limit(
    name: str, environment: Mapping[str, str] = os.environ, version: tuple[int, ...] = ()
) -> int:
    """Bytes of a GPU that a program may hold: jax's share of its memory.

    Args:
        name: of TARGETS.
        environment: where the variables may stand.
        version: of jax; (): that of the one that is here.
    """
    default = SHARE + "+" * ((version or jax.__version_info__) >= GROWS)
    variable = next((v for v in VARIABLES if environment.get(v)), "")
    said = environment[variable] if variable else default
    parts = re.fullmatch(r"(\d*\.?\d+)(\+|-(\d*\.?\d+))?", said)
    if not parts:
        raise config.InputError(
            f"{variable}={said} is no share of a GPU's memory; allowed are 0.9, 0.75+, 0.75-0.9."
        )
    start, grows, most = parts.groups()
    return int(TARGETS[name].memory * float(most or (MOST if grows else start)))


@dataclasses.dataclass(frozen=True)
class Attention:
    """A call of cuDNN's attention.

    Attributes:
        backward: whether it is the gradient.
        shape: [B, H, T, S].
        width: of a head, C.
        pairs: of a query and a key, that are computed for each row and head.
    """

    backward: bool
    shape: tuple[int, ...]
    width: int
    pairs: int

    @property
    def flops(self) -> float:
        """Two products a pair forward; backward five, for it makes the scores anew."""
        products = 5 if self.backward else 2
        return 2.0 * products * math.prod(self.shape[:2]) * self.pairs * self.width

    @property
    def workspace(self) -> int:
        """Bytes that the gradient takes besides its results.

        The queries' gradient is added up in float32, and a sum is kept for each (cudnn-frontend,
        scaled_dot_product_flash_attention.h). XLA asks the library how much, and where there is
        none counts nothing.
        """
        return 4 * math.prod(self.shape[:3]) * (self.width + 1) if self.backward else 0


def attention(one: Instruction) -> Attention | None:
    """What a call of cuDNN's attention computes; None for everything else."""
    target = re.search(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?"', one.rest)
    sizes = re.search(r'"dimensions":\s*\[([^\]]*)\]', one.rest)
    if one.op != "custom-call" or not target or not sizes:
        return None
    shape = tuple(int(n) for n in re.findall(r"\d+", sizes[1]))
    T, S = shape[2:]
    window = re.search(r'"sliding_window_length":\s*"?(\d+)', one.rest)
    pairs = T * S // 2 if '"CAUSAL"' in one.rest else T * S
    if window and 0 < (reach := int(window[1])) < T:
        pairs = T * reach - reach * (reach - 1) // 2
    width = program.arrays(one.rest[one.rest.index("operand_layout_constraints") :])[0].shape[-1]
    return Attention(bool(target[1]), shape, width, pairs)


def workspace(whole: Program) -> int:
    """Bytes that a program's calls of cuDNN take at a time, beside what the compiler counts."""
    calls = [attention(one) for body in whole.computations.values() for one in body.values()]
    return max((call.workspace for call in calls if call), default=0)
