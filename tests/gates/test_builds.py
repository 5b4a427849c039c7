"""Build folders as data: what is written is read back, what isn't one is refused."""

import json

import pytest

from harness.errors import DataError
from harness.gates.builds import FILE, Build, Built, is_build, read_build, write_build


def built(name: str = "fp32@ort-cpu", **changes: object) -> Built:
    recipe, engine = name.split("@")
    values = {
        "baseline": "base",
        "key": "k",
        "format": "onnx",
        "precision": "fp32",
        "technique": "reference",
        "bytes": 10,
        "data_hash": "d",
        "inputs": {"64x1": ("inputs/a.npz", "h")},
    }
    return Built(name=name, recipe=recipe, engine=engine, **{**values, **changes})


def test_a_build_is_read_back_as_it_was_written(tmp_path) -> None:
    made = Build(tmp_path, {"cpu": "one", "commit": "c"}, {"fp32@ort-cpu": built()}, {}, {"x": "y"})
    assert not is_build(tmp_path)
    write_build(made)
    assert is_build(tmp_path)
    assert read_build(tmp_path) == made
    assert made.commit == "c"
    assert made.why_missing("x") == "failed: y"
    assert made.why_missing("z") == "no recipe and target of this name"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no build here"),
        ("{", "not a build"),
        ("[]", "not a build"),
        (json.dumps({"schema_version": 1, "artifacts": [{"name": "x"}]}), "expected"),
        (
            json.dumps(
                {
                    "schema_version": 9,
                    "artifacts": [],
                    "environment": {},
                    "skipped": {},
                    "failed": {},
                }
            ),
            "schema version 9, expected 1",
        ),
    ],
)
def test_what_is_no_build_is_refused(tmp_path, text, told) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=told):
        read_build(tmp_path)
