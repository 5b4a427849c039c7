"""Descriptions that ask for far more than their file of weights holds are refused unbuilt."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness import bounded
from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.bounded import MAKERS, SHARE, _Bounded, _most_bytes, bounded_by
from harness.errors import DataError
from harness.modules import load_module

HUGE = 10**12


def changed(artifact: Artifact, name: str, change: Callable[[Any], None]) -> Artifact:
    """The artifact with another content of one of its files."""
    path = artifact.folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return read_artifact(artifact.folder)


def refused(artifact: Artifact) -> str:
    before = psutil.Process().memory_info().rss
    with pytest.raises(DataError) as caught:
        load_module(artifact)
    assert psutil.Process().memory_info().rss - before < 3 * 10**8
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "huge"),
    [
        (ModelSpec("mlp", {"dim": 8, "widths": [32]}), {"dim": 10**9}),
        (ModelSpec("mlp", {"dim": 8, "widths": [32]}), {"widths": [HUGE]}),
        (ModelSpec("mlp", {"dim": 8, "widths": [32]}), {"widths": [30_000] * 50}),
        (ModelSpec("dlrm", {"dim": 8, "bottom": [16], "top": [16]}), {"top": [HUGE]}),
        (ModelSpec("dlrm", {"dim": 8, "bottom": [16], "top": [16]}), {"bottom": [HUGE, HUGE]}),
        (ModelSpec("dcn_v2", {"dim": 8}), {"widths": [HUGE]}),
    ],
    ids=["columns", "width", "many widths", "top", "bottom", "cross"],
)
def test_a_model_of_huge_parameters(
    save_artifact: Any, model: ModelSpec, huge: dict[str, object]
) -> None:
    artifact = save_artifact(model)
    load_module(artifact)
    text = refused(
        changed(artifact, "artifact.json", lambda c: c["model"]["parameters"].update(huge))
    )
    assert text.startswith(f"{artifact.file}: its tensors have ")
    assert "the largest '" in text
    assert "would have" in text


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_schema_of_huge_tables(tiny_artifact: Artifact, field: int) -> None:
    def grow(content: Any) -> None:
        tables = [f for f in content["fields"] if f["kind"] == "categorical"]
        tables[field % len(tables)]["cardinality"] = HUGE

    text = refused(changed(tiny_artifact, "schema.json", grow))
    assert f"({HUGE}, " in text


def test_a_users_own_model_of_huge_tables(rec_artifact: Artifact) -> None:
    def grow(content: Any) -> None:
        for each in content["fields"]:
            each["cardinality"] = HUGE

    assert f"({HUGE}, " in refused(changed(rec_artifact, "schema.json", grow))


@pytest.mark.parametrize("size", [HUGE, (1 << 24) + 1])
def test_an_input_of_huge_size(tiny_artifact: Artifact, size: int) -> None:
    with pytest.raises(DataError, match=rf"artifact\.json: not an artifact .*{size}"):
        changed(tiny_artifact, "artifact.json", lambda c: c["inputs"][0]["shape"].append(size))


def test_what_is_pruned_still_loads(tiny_artifact: Artifact, tmp_path: Path) -> None:
    """A file far smaller than its class builds, as pruning leaves it."""
    tensors = {"weight": torch.zeros(1, 1)}
    with bounded_by(tensors, where="w"):
        assert nn.Embedding(100_000, 100).weight.shape == (100_000, 100)


def test_the_limit_is_of_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LEAST", 0)
    tensors = {"a": torch.zeros(3), "b": torch.zeros(2)}  # 20 bytes
    with bounded_by(tensors, where="w"):
        torch.zeros(5 * SHARE - 1)
        torch.zeros(1)
        with pytest.raises(DataError, match=r"w: its tensors have 20 bytes, the largest 'a' of"):
            torch.zeros(1)
    torch.zeros(1)


def test_the_machines_memory_is_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    there = psutil.virtual_memory()._replace(total=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    with bounded_by({}, where="w"), pytest.raises(DataError, match="1,000 at most"):
        torch.zeros(251)


@given(st.integers(1, 200), st.sampled_from([torch.float32, torch.int64, torch.float16]))
def test_what_is_made_within_is_what_is_made_without(size: int, dtype: torch.dtype) -> None:
    def all_of() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        whole = torch.randint(0, 9, (size,), generator=generator)
        return [
            torch.full((size, 2), 3, dtype=dtype),
            torch.arange(0, size, dtype=dtype),
            torch.eye(size),
            torch.tril_indices(size, size, offset=-1),
            torch.linspace(0, 1, size),
            torch.randn(size, generator=generator),
            torch.randperm(size, generator=generator),
            torch.zeros(size, dtype=dtype, device="cpu"),
            torch.ones(size, dtype=dtype, requires_grad=dtype.is_floating_point),
            whole,
        ]

    outside = all_of()
    with bounded_by({}, where="w"):
        inside = all_of()
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(outside, inside, strict=True)
    )


@pytest.mark.parametrize("make", MAKERS[:7], ids=lambda make: make.__name__)
def test_no_maker_takes_the_memory(make: Any) -> None:
    arguments = {torch.full: ((HUGE, 16), 0.5), torch.randint: (0, 9, (HUGE, 16))}
    with bounded_by({}, where="w"), pytest.raises(DataError, match="would have"):
        make(*arguments.get(make, ((HUGE, 16),)))


@given(st.integers(-9, 60), st.integers(1, 60), st.sampled_from([torch.uint8, torch.float64]))
def test_what_is_made_to_be_counted_counts_the_same(one: int, two: int, dtype: torch.dtype) -> None:
    asks: list[tuple[Any, tuple, dict]] = [
        (torch.arange, (one, max(one, two)), {"dtype": torch.float64}),
        (torch.arange, (two,), {}),
        (torch.arange, (0, two / 7, 0.01), {}),
        (torch.eye, (two,), {"dtype": torch.complex128}),
        (torch.eye, (two, 3), {"dtype": dtype}),
        (torch.tril_indices, (two, 5), {"offset": one}),
        (torch.linspace, (0, 1, two), {}),
        (torch.randint, (0, 2, (two, 7)), {"dtype": torch.int64}),
        (torch.zeros, (two, 7), {"dtype": dtype}),
        (torch.full, ((two,), 0.5), {"dtype": torch.complex128}),
        (torch.randn, (two, 2), {}),
    ]

    def counted(little: float) -> list[int]:
        with pytest.MonkeyPatch.context() as patch, _Bounded(2**40, "w") as mode:
            patch.setattr(bounded, "LITTLE", little)
            return [(make(*args, **more), mode.asked)[1] for make, args, more in asks]

    on_meta = counted(-1)
    assert counted(bounded.LITTLE) == on_meta
    each = np.diff([0, *on_meta])
    for (make, args, more), nbytes in zip(asks, each, strict=True):
        assert _most_bytes(make, [*args, *more.values()]) >= nbytes


def test_loading_a_model_imports_no_compiler(tiny_artifact: Artifact) -> None:
    """Every timed process and every cold start would pay for it: a second and some memory."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from harness.artifact import read_artifact\nfrom harness.modules import load_module\n"
        "load_module(read_artifact(Path(sys.argv[1])))\n"
        "assert 'torch' in sys.modules\n"
        "print([name for name in ('sympy', 'torch._dynamo', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tiny_artifact.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_description_may_name_layers_of_huge_size(tiny_artifact: Artifact) -> None:
    layers = {"top.0": {"form": "low_rank", "rank": HUGE}}
    artifact = replace(tiny_artifact, model=replace(tiny_artifact.model, layers=layers))
    with pytest.raises(DataError):
        load_module(artifact)
