"""Predictions of published steps: every row has its config, and the results keep the bar.

The results are the repository's own: `python experiments/published_steps/run.py` writes them.
"""

import importlib.util
import json
import pathlib
import statistics

import pytest

from bigmodel import costs
from bigmodel import recipe as recipes
from bigmodel.plan import topology

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "published_steps"
ROWS = json.loads((FOLDER / "rows.json").read_text())["rows"]
RESULTS = {row["id"]: row for row in json.loads((FOLDER / "results.json").read_text())["rows"]}
JUDGED = [RESULTS[row["id"]] for row in ROWS if row["use"] == "judge" and row["id"] in RESULTS]


def module():
    spec = importlib.util.spec_from_file_location("published_rows", FOLDER / "rows.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


RULES = module()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_row_is_a_valid_config_on_its_topology(row):
    loaded = recipes.resolve(RULES.config(row))
    where = topology.parse(row["topology"], row["slices"])
    assert loaded.config.batch == row["batch_per_device"] * where.devices
    sizes = {axis: loaded.config.mesh[axis] for axis in row["mesh"]}
    assert sizes == row["mesh"]
    counted = 1
    for size in sizes.values():
        counted *= size
    assert counted == where.devices
    assert row["source"]


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ("full", ("full", (), ())),
        ("save: k, v; offload: layer input", ("names", ("key", "value"), ("input",))),
    ],
)
def test_words_of_a_publication_have_one_meaning(words, policy):
    assert RULES.remat_of(words) == policy


def test_every_row_has_a_result_of_its_own_measurement():
    assert [row["id"] for row in ROWS] == list(RESULTS)
    for row in ROWS:
        kept = RESULTS[row["id"]]
        assert kept["measured_seconds"] == row["measured_step_seconds"]
        assert kept["error"] == pytest.approx(
            kept["predicted_seconds"] / kept["measured_seconds"] - 1
        )


def test_the_rows_to_judge_by_keep_the_bar():
    errors = [abs(row["error"]) for row in JUDGED]
    assert len(errors) == 11
    assert statistics.mean(errors) <= 0.10
    assert statistics.median(errors) <= 0.08


def test_two_layouts_of_one_model_are_in_the_right_order():
    by_data, by_fsdp = (RESULTS[f"tpu7x-8-qwen3-0.6b-{axis}"] for axis in ("data", "fsdp"))
    assert by_data["measured_seconds"] > by_fsdp["measured_seconds"]
    assert by_data["predicted_seconds"] > by_fsdp["predicted_seconds"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_offload_and_memorys_edge_are_flagged(row):
    kept = RESULTS[row["id"]]
    assert ("host offload" in kept["flags"]) == ("offload" in row["remat"])
    full = kept["hbm_bytes"] > 0.92 * kept["hbm_limit_bytes"]
    assert full <= bool({"over-full", "memory's edge"} & set(kept["flags"]))


def test_one_constant_a_generation_makes_its_calibration_row_exact():
    """Stale constants of the table show here."""
    rows = [row for row in ROWS if row["use"] == "calibrate"]
    kinds = [row["topology"].partition(":")[0] for row in rows]
    assert sorted(kinds) == sorted(costs.GENERATIONS)
    for row in rows:
        assert abs(RESULTS[row["id"]]["error"]) < 0.005
