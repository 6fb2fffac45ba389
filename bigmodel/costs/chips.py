"""The table of chips."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device can do; half a chip where a chip shows two devices.

    Attributes:
        name: of the device.
        pattern: regular expression found in the lower-case device kind.
        peak_flops: dense bfloat16 FLOP/s.
        hbm_bytes: for programs: on TPU what the compiler leaves of it.
        hbm_bandwidth: bytes/s.
    """

    name: str
    pattern: str
    peak_flops: float
    hbm_bytes: float
    hbm_bandwidth: float


# The first row whose pattern is found counts. TPU: cloud.google.com/tpu/docs, halved where a chip
# shows two devices (v2, v3, 7x); bytes of v4 and later from compilers' own messages. NVIDIA: data
# sheets, without sparsity; PCIe and NVL boards are slower than SXM ones of the same name.
# fmt: off
CHIPS = (
    #    name          pattern                  FLOP/s    bytes          bytes/s
    Chip("TPU v2",     r"tpu v2",               22.5e12,  8 * 2**30,     350e9),
    Chip("TPU v3",     r"tpu v3",               61.5e12,  16 * 2**30,    450e9),
    Chip("TPU v4",     r"tpu v4(?! ?(lite|i))", 275e12,   30.75 * 2**30, 1.23e12),
    Chip("TPU v5e",    r"v5 ?(lite|e)",         197e12,   15.75 * 2**30, 820e9),
    Chip("TPU v5p",    r"tpu v5",               459e12,   95.7 * 2**30,  2.77e12),
    Chip("TPU v6e",    r"v6 ?(lite|e)",         918e12,   31.24 * 2**30, 1.64e12),
    Chip("TPU7x",      r"tpu ?v?7",             1.15e15,  94.7 * 2**30,  3.69e12),
    Chip("A100 40GB",  r"a100.*40gb",           312e12,   40 * 2**30,    1.555e12),
    Chip("A100 PCIe",  r"a100.*pcie",           312e12,   80 * 2**30,    1.935e12),
    Chip("A100",       r"a100",                 312e12,   80 * 2**30,    2.039e12),
    Chip("H100 PCIe",  r"h100.*pcie",           756e12,   80 * 2**30,    2.0e12),
    Chip("H100 NVL",   r"h100.*nvl",            835e12,   94e9,          3.9e12),
    Chip("H100",       r"h100",                 989e12,   80 * 2**30,    3.35e12),
    Chip("H200 NVL",   r"h200.*nvl",            835e12,   141e9,         4.8e12),
    Chip("H200",       r"h200",                 989e12,   141e9,         4.8e12),
    Chip("B200",       r"\bb200",               2.25e15,  180e9,         8.0e12),
)
# fmt: on


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
