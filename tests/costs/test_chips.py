"""Laws of the table of chips."""

import pytest

from bigmodel import costs

KINDS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1.15e15,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2.25e15,
    "TPU v4 lite": None,
    "NVIDIA GB200": None,
    "cpu": None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_kind_has_its_own_peak(kind):
    assert costs.peak_flops(kind) == KINDS[kind]


def test_boards_of_one_name_differ_in_memory():
    names = ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"]
    rows = [costs.chip(name) for name in names]
    assert [row.name for row in rows if row] == ["A100 40GB", "A100", "A100 PCIe"]


def test_every_chip_is_reachable_by_its_own_name():
    assert [costs.chip(row.name) for row in costs.CHIPS] == list(costs.CHIPS)


def test_mfu_is_a_share_of_the_peak_and_refused_where_that_is_unknown():
    assert costs.mfu(0.4 * 459e12, "TPU v5p") == pytest.approx(0.4)
    for kind in ("abacus", "cpu", "TPU v4 lite"):
        with pytest.raises(ValueError, match=f"(?s)no chip '{kind}'.*TPU v5p, .*Add a row"):
            costs.mfu(1e12, kind)
