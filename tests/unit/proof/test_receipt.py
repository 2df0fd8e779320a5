import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.unavailable import Unavailable
from kit.proof.receipt import PhaseResult, phase_results, write_receipt
from kit.units import GIB
from tests.receipts import receipt
from tests.timelines import TIMELINE

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "docs" / "receipt.schema.json").read_text(encoding="utf-8")
)
UNKNOWN = Unavailable("NVML is silent")


def as_json(made):
    return json.loads(json.dumps(made.record()))


def test_what_held():
    assert receipt().outcome == "held"
    assert receipt().record()["pools"]["device"]["of_plan"] == round(27 / 28, 4)


@pytest.mark.parametrize(
    ("figures", "outcome"),
    [
        ({"host": 5 * GIB}, "breached"),
        ({"device": 31 * GIB}, "breached"),
        ({"device": UNKNOWN}, "unmeasured"),
        ({"host": UNKNOWN, "device": 31 * GIB}, "unmeasured"),
        ({"device": None}, "held"),
    ],
)
def test_what_did_not(figures, outcome):
    made = receipt(**figures)
    assert made.outcome == outcome
    jsonschema.validate(as_json(made), SCHEMA)


def test_the_schema_describes_every_field_and_no_other():
    record = as_json(receipt())
    jsonschema.validate(record, SCHEMA)
    for change in ({"extra": 1}, {"outcome": "fine"}, {"pools": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(record | change, SCHEMA)
    jsonschema.validate(as_json(replace(receipt(), work=None)), SCHEMA)


def test_phases():
    assert phase_results(TIMELINE)[:2] == (
        PhaseResult("starting", 1, GIB, None),
        PhaseResult("weights", 2, 2 * GIB, 25 * GIB),
    )


def test_written_byte_stable(tmp_path):
    for name in ("a", "b"):
        write_receipt(tmp_path / "new" / name, receipt())
    assert (tmp_path / "new/a").read_bytes() == (tmp_path / "new/b").read_bytes()
    assert json.loads((tmp_path / "new/a").read_text())["model"]["name"] == "spark"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentNotReady, match="receipt"):
        write_receipt(tmp_path / "file" / "receipt.json", receipt())
