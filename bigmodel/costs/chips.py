"""The table of chips, and the generations of TPUs whose topologies can be named."""

import dataclasses
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device can do; half a chip where a chip shows two devices.

    Attributes:
        name: of the device.
        pattern: regular expression found in the lower-case device kind.
        peak_flops: dense bfloat16 FLOP/s.
        hbm_bytes: for programs: on TPU what the compiler leaves of it.
        hbm_bandwidth: bytes/s.
        link_bandwidth: bytes/s one way, of one ICI link; of a GPU all of its NVLinks together.
        slice_bandwidth: bytes/s between slices, or of a GPU between hosts.
        host_bandwidth: bytes/s to or from the host's memory.
        efficiency: share of the peak that large matrix products reach, calibrated on one published
            step each (experiments/published_steps); 0: nobody has.
        memory_efficiency: share of `hbm_bandwidth` that kernels reach.
    """

    name: str
    pattern: str
    peak_flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float = 0.0
    slice_bandwidth: float = 0.0
    host_bandwidth: float = 0.0
    efficiency: float = 0.0
    memory_efficiency: float = 1.0


# The first row whose pattern is found counts. TPU: cloud.google.com/tpu/docs, halved where a chip
# shows two devices (v2, v3, 7x); bytes of v4 and later from compilers' own messages. NVIDIA: data
# sheets, without sparsity; PCIe and NVL boards are slower than SXM ones of the same name.
# Networks, bytes/s one way: of an ICI link (of a GPU: its NVLinks), between slices (hosts), to the
# host's memory. ICI: the data sheets' bandwidth of a chip over its links and two ways.
ICI_V4, ICI_V5P, ICI_V6 = (45e9, 6.25e9, 15e9), (90e9, 6.25e9, 15e9), (90e9, 6.25e9, 64e9)
# GPUs: also efficiency, and what is reached of main memory: an H100 copies at 2.95 TB/s and goes
# element by element at 1.9 to 3.1 (benchmarks/predicted.py; of the others it is assumed). A TPU's
# efficiency was fitted with 1.0 there.
A100, HOPPER, B200 = (
    (300e9, 25e9, 25e9, 0.75, 0.85),
    (450e9, 50e9, 55e9, 0.7, 0.85),
    (900e9, 50e9, 55e9, 0.7, 0.85),
)

# fmt: off
CHIPS = (
    #    name          pattern                  FLOP/s    bytes        bytes/s   network  efficiency
    Chip("TPU v2",     r"tpu v2",               22.5e12,  8 * GIB,     350e9),
    Chip("TPU v3",     r"tpu v3",               61.5e12,  16 * GIB,    450e9),
    Chip("TPU v4",     r"tpu v4(?! ?(lite|i))", 275e12,   30.75 * GIB, 1.23e12,  *ICI_V4, 0.760),
    Chip("TPU v5e",    r"v5 ?(lite|e)",         197e12,   15.75 * GIB, 820e9,    *ICI_V4, 0.944),
    Chip("TPU v5p",    r"tpu v5",               459e12,   95.7 * GIB,  2.77e12,  *ICI_V5P, 0.998),
    Chip("TPU v6e",    r"v6 ?(lite|e)",         918e12,   31.24 * GIB, 1.64e12,  *ICI_V6, 0.724),
    Chip("TPU7x",      r"tpu ?v?7",             1.15e15,  94.7 * GIB,  3.69e12,  *ICI_V6, 0.726),
    Chip("A100 40GB",  r"a100.*40gb",           312e12,   40 * GIB,    1.555e12),
    Chip("A100 PCIe",  r"a100.*pcie",           312e12,   80 * GIB,    1.935e12),
    Chip("A100",       r"a100",                 312e12,   80 * GIB,    2.039e12, *A100),
    Chip("H100 PCIe",  r"h100.*pcie",           756e12,   80 * GIB,    2.0e12),
    Chip("H100 NVL",   r"h100.*nvl",            835e12,   94e9,        3.9e12),
    Chip("H100",       r"h100",                 989e12,   80 * GIB,    3.35e12,  *HOPPER),
    Chip("H200 NVL",   r"h200.*nvl",            835e12,   141e9,       4.8e12),
    Chip("H200",       r"h200",                 989e12,   141e9,       4.8e12,   *HOPPER),
    Chip("B200",       r"\bb200",               2.25e15,  180e9,       8.0e12,   *B200),
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Generation:
    """TPUs by the name that stands before a topology's shape.

    Attributes:
        chip: its name in CHIPS.
        dims: of the torus.
        devices: JAX devices of a chip.
        most: the largest shape.
        gke: value of the node label cloud.google.com/gke-tpu-accelerator
            (cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus).
        vm: what `gcloud compute tpus` calls it; "" where the Cloud TPU API has none: 7x and later
            (docs.cloud.google.com/tpu/docs/runtimes).
        runtime: software version of its virtual machines (the same page).
    """

    chip: str
    dims: int
    devices: int
    most: tuple[int, ...]
    gke: str
    vm: str = ""
    runtime: str = ""


GENERATIONS = {
    "v4": Generation("TPU v4", 3, 1, (16, 16, 16), "tpu-v4-podslice", "v4", "tpu-ubuntu2204-base"),
    "v5e": Generation(
        "TPU v5e", 2, 1, (16, 16), "tpu-v5-lite-podslice", "v5litepod", "v2-alpha-tpuv5-lite"
    ),
    "v5p": Generation("TPU v5p", 3, 1, (16, 16, 24), "tpu-v5p-slice", "v5p", "v2-alpha-tpuv5"),
    "v6e": Generation("TPU v6e", 2, 1, (16, 16), "tpu-v6e-slice", "v6e", "v2-alpha-tpuv6e"),
    "tpu7x": Generation("TPU7x", 3, 2, (16, 16, 36), "tpu7x"),
}


def chip(device_kind: str) -> Chip | None:
    """The row of the table for what `jax.Device.device_kind` says, or None."""
    kind = device_kind.lower().replace("_", " ").replace("-", " ")
    return next((row for row in CHIPS if re.search(row.pattern, kind)), None)


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device; None for one that the table does not have."""
    row = chip(device_kind)
    return row.peak_flops if row else None


def mfu(flops_per_second: float, device_kind: str) -> float:
    """Model FLOPs utilisation of one device: its model FLOP/s as a share of what it could do.

    Chowdhery et al. 2022, PaLM (arXiv:2204.02311), appendix B.

    Args:
        flops_per_second: model FLOPs of a step, by either convention (`CONVENTIONS`), divided by
            devices and seconds.
        device_kind: what `jax.Device.device_kind` says.

    Raises:
        ValueError: of a chip whose peak is not known.
    """
    row = chip(device_kind)
    if row is None:
        raise ValueError(
            f"MFU is a share of a known peak, and the table has no chip {device_kind!r}.\n"
            f"  known chips: {', '.join(row.name for row in CHIPS)}\n"
            "Add a row to CHIPS in bigmodel/costs/chips.py."
        )
    return flops_per_second / row.peak_flops
