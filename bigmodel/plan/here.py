"""The prediction for devices that are here, beside which a measurement stands."""

from typing import Any

from bigmodel import costs
from bigmodel import recipe as recipes
from bigmodel.costs.topology import NETWORKS
from bigmodel.plan import calibrate, network, simulate
from bigmodel.plan.child import place, slice_of
from bigmodel.plan.program import Program


def predict(recipe: recipes.Recipe, compiled: Any) -> float | None:
    """Seconds of a compiled step on its own mesh; None where the table has no such chip.

    Args:
        recipe: of the run.
        compiled: a `jax.stages.Compiled`.
    """
    devices = list(recipe.mesh.devices.flat)
    chip = costs.chip(devices[0].device_kind)
    if chip is None or not chip.link_bandwidth:
        return None
    platform = "tpu" if devices[0].platform == "tpu" else "gpu"
    meta = {
        "mesh": dict(recipe.mesh.shape),
        "coords": [place(device, platform) for device in devices],
        "slice_of": [slice_of(device, platform) for device in devices],
        "networks": NETWORKS[platform],
    }
    net = network.Network.of(meta, chip)
    whole = Program(compiled.as_text() or "")
    return simulate.Clock(whole, net, calibrate.efficiency(chip)).run().seconds
