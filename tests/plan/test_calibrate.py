"""Constants of large products: the table's, and those of a user's own runs beside them."""

import pytest

from bigmodel import config, costs
from bigmodel.plan import calibrate

V5E, V5P = costs.chip("TPU v5e"), costs.chip("TPU v5p")


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "calibration.json"
    monkeypatch.setenv("BIGMODEL_CALIBRATION", str(path))
    return path


def test_the_table_holds_until_a_run_was_measured(own_file):
    assert calibrate.own() == {}
    assert calibrate.efficiency(V5E) == V5E.efficiency
    assert calibrate.keep(V5E, 0.81) == own_file
    assert calibrate.efficiency(V5E) == 0.81
    assert calibrate.efficiency(V5P) == V5P.efficiency


def test_each_chip_has_its_own():
    calibrate.keep(V5E, 0.81)
    calibrate.keep(V5P, 0.7)
    calibrate.keep(V5E, 0.82)
    assert calibrate.own() == {V5E.name: 0.82, V5P.name: 0.7}


@pytest.mark.parametrize("text", ["{", "[]", '{"TPU v5e": "fast"}', '{"TPU v5e": null}', "3"])
def test_a_damaged_file_is_named(own_file, text):
    own_file.parent.mkdir()
    own_file.write_text(text)
    with pytest.raises(config.InputError, match="calibration.json: holds no chips and numbers"):
        calibrate.efficiency(V5E)
