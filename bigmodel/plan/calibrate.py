"""What large products reach of a chip's peak: the table's constants, and a user's own."""

import json
import os
import pathlib

from bigmodel import config, costs
from bigmodel.plan import network, simulate
from bigmodel.plan.program import Program
from bigmodel.plan.requests import Found, Request

LEAST, MOST = 0.05, 1.5  # of an efficiency: what is outside is a mistake in what was measured


def place() -> pathlib.Path:
    """The user's own constants, beside the table: $BIGMODEL_CALIBRATION, or in ~/.config."""
    given = os.environ.get("BIGMODEL_CALIBRATION")
    return pathlib.Path(given or os.path.expanduser("~/.config/bigmodel/calibration.json"))


def own() -> dict[str, float]:
    """Chip -> efficiency, as the user's runs gave them."""
    try:
        return {name: float(row) for name, row in json.loads(place().read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise config.InputError(
            f"{place()}: holds no chips and numbers ({error}); correct it or take it away."
        ) from error


def efficiency(chip: costs.Chip) -> float:
    """Share of the peak, between 0 and 1: the user's own if there is one, else the table's."""
    return own().get(chip.name, chip.efficiency)


def keep(chip: costs.Chip, value: float) -> pathlib.Path:
    """Writes a constant of the user's own; returns where."""
    path = place()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(own() | {chip.name: value}, indent=2) + "\n")
    return path


def fit(request: Request, found: Found, measured_seconds: float) -> float:
    """The efficiency with which the predicted step takes as long as the measured one.

    Args:
        request: the step that was measured, on the hardware on which it was.
        found: what the compiler made of it.
        measured_seconds: of one step.

    Raises:
        InputError: the chip's time is not modelled, or no efficiency gives such a step.
    """
    chip = request.topology.chip
    if chip is None or not chip.link_bandwidth:
        raise config.InputError(
            f"A measured step calibrates a chip whose time is modelled; {request.topology.name} "
            f"is none. Take a topology of {', '.join(c.name for c in costs.CHIPS if c.efficiency)}."
        )
    whole, net = Program(found.program), network.Network.of(found.meta, chip)

    def seconds(efficiency: float) -> float:
        return simulate.Clock(whole, net, efficiency).run().seconds

    slowest, fastest = seconds(LEAST), seconds(MOST)
    if not fastest <= measured_seconds <= slowest:
        raise config.InputError(
            f"A measured step lies where large products reach {LEAST} to {MOST} of the peak of "
            f"{chip.name}.\n"
            f"  measured: {measured_seconds:.4g} s\n"
            f"  allowed:  {fastest:.4g} s to {slowest:.4g} s\n"
            "Give the seconds of one step of this very config on this very topology, without the "
            "first steps, which compile."
        )
    low, high = LEAST, MOST
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(middle) > measured_seconds else (low, middle)
    return (low + high) / 2
