"""The page of results is made of what was run."""

import json
import runpy

import pytest

from tests import runs

FOLDER = runs.ROOT / "experiments" / "real_tasks"
ROWS = sorted(FOLDER.glob("results/*.json"))


def test_the_page_says_what_the_files_say():
    page = runpy.run_path(str(FOLDER / "table.py"))["page"]()
    assert page == (runs.ROOT / "docs" / "results.md").read_text(), (
        "renew it by python experiments/real_tasks/table.py"
    )


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_is_of_whole_runs_of_its_command(path):
    row = json.loads(path.read_text())
    script = row["command"].split()[1]
    assert (runs.ROOT / script).exists()
    figures = [run["figures"][row["figure"]] for run in row["runs"].values()]
    assert row["value"] == pytest.approx(sum(figures) / len(figures))
    assert all(one["source"] for one in row["published"])
    for name, run in row["runs"].items():
        assert run["provenance"]["git"]
        assert f"{script}:{name}" in run["provenance"]["command"]
