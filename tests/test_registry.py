"""The catalog: every entry is there, says what it is, and its parameters are checked."""

import subprocess
import sys

import pytest

from harness import registry
from harness.catalog import CATALOG

ENTRIES = [(kind, name) for kind in CATALOG for name in CATALOG[kind]]
MARKS = {
    "datasets": {"source", "licence"},
    "models": set(),
    "stages": {"accepts", "produces", "technique"},
    "engines": {"accepts", "device"},
    "metrics": {"unit", "direction", "over", "tasks"},
}
OPTIONAL = {"engines": {"reference"}}
"""Marks that an entry may have beside those."""


@pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=lambda v: v)
def test_every_entry_says_what_it_is(kind: str, name: str) -> None:
    entry = registry.entry(kind, name)
    assert entry.summary
    assert set(entry.marks) - OPTIONAL.get(kind, set()) == MARKS[kind]


@pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=lambda v: v)
def test_every_entry_resolves(kind: str, name: str) -> None:
    assert callable(registry.resolve(kind, name))


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="unknown stage 'distil'; did you mean 'distill'"):
        registry.entry("stages", "distil")
    assert registry.suggest("zzz", ["a", "b"]) == "; expected one of: a, b"


def test_bind_fills_defaults_and_refuses() -> None:
    bound = registry.bind("models", "deepfm", {"dim": 8.0})
    assert bound == {"dim": 8, "widths": (400, 400), "fused": False}
    with pytest.raises(registry.ValidationError) as caught:
        registry.bind("models", "mlp", {"dim": 0, "width": [1]})
    sentences = [registry.explain(e, ("dim", "widths")) for e in caught.value.errors()]
    assert sentences == [
        "input should be greater than or equal to 1, got 0",
        "unknown parameter 'width'; did you mean 'widths'?",
    ]


def test_checking_and_listing_load_nothing_heavy() -> None:
    code = (
        "import sys, harness.cli, harness.recipe as r; from harness import registry\n"
        "from harness.catalog import CATALOG\n"
        "kinds = ('models', 'stages', 'datasets')\n"
        "[registry.json_schema(k, n) for k in kinds for n in CATALOG[k]]\n"
        "print({'torch', 'polars', 'pandas', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("set()", "{'numpy'}")
