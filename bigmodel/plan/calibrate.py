"""What large products reach of a chip's peak: the table's constants, and a user's own."""

import json
import os
import pathlib

from bigmodel import config, costs


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
