"""The check of TensorRT's graphs: what the child says or doesn't, the stage at fault, the rows."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import registry, tensorrt_check
from harness.artifact import Artifact
from harness.baseline import Trained
from harness.recipe import Recipe, StageSpec, TargetSpec
from harness.store import Store
from harness.tensorrt_check import AXES, Answer, ask, check_variant, checkable, unchecked
from harness.variants import Variant, build_stage

RTX = pytest.mark.skipif(
    tensorrt_check.installed() is None, reason="tensorrt-rtx isn't installed (its extra)"
)
STATIC = ("quantize_static", {"calibration_rows": 64})
DYNAMIC = ("quantize_dynamic", {})
HALF = ("convert_fp16", {"check_rows": 16})
INT8 = ("quantize_static", {"calibration_rows": 64, "dialect": "tensorrt"})


def variant(trained: Trained, *stages: tuple[str, dict[str, Any]], **changes: Any) -> Variant:
    specs = tuple(StageSpec(name, registry.bind("stages", name, given)) for name, given in stages)
    target = TargetSpec(changes.pop("target", "tensorrt"))
    recipe = Recipe("r", Path("r.yaml"), "", trained.spec, specs, (target,), {}, (), 7)
    return replace(
        Variant(recipe, target, status="skipped", reason="no_driver: none is here"), **changes
    )


def checked(item: Variant, trained: Trained, folder: Path) -> tensorrt_check.Checked:
    how = (1, lambda label, share: None, build_stage)
    return check_variant(item, trained, Store(folder), how)


def said_by(*lines: dict[str, Any], then: str = "") -> tuple[str, ...]:
    """A child that says these lines and then does something else."""
    texts = [json.dumps(line) for line in lines]
    code = "import os, sys, time\n" + "".join(f"print({text!r}, flush=True)\n" for text in texts)
    return (sys.executable, "-c", f"{code}{then}")


def test_what_a_child_said_before_it_crashed_is_kept(onnx: Artifact) -> None:
    command = said_by({"version": "1.7"}, {"parsed": True}, then="os.abort()")
    answer = ask(onnx, axes=AXES, command=command)
    assert answer.passed == {"parsed": True, "typed": None, "built": None}
    assert (answer.version, answer.answered, answer.accepted) == ("1.7", False, False)
    assert answer.reason == "was killed by SIGABRT, before the graph was typed"


def test_a_child_that_hangs_is_ended(onnx: Artifact) -> None:
    command = said_by({"version": "1.7"}, then="time.sleep(60)")
    answer = ask(onnx, axes=AXES, command=command, seconds=1.0)
    assert answer.reason == "gave no answer within 1 s, before the graph was parsed"
    assert answer.stopped_at == "parsed"


def test_a_package_that_does_not_load_is_no_word_on_the_graph(onnx: Artifact) -> None:
    command = said_by(then="raise ImportError('libcudart.so.13: cannot open')")
    answer = ask(onnx, axes=AXES, command=command)
    assert not answer.answered
    assert "ended with status 1: ImportError: libcudart.so.13" in str(answer.reason)


@pytest.fixture
def onnx(rec_artifact: Artifact) -> Artifact:
    """Any artifact: these children don't look at it."""
    return rec_artifact


def answers(monkeypatch: pytest.MonkeyPatch, *found: Answer) -> list[str]:
    """Answers in order of asking; gives the list that fills with what was asked about."""
    asked: list[str] = []

    def tell(artifact: Artifact, **_: Any) -> Answer:
        asked.append(artifact.lineage[-1].stage)
        return found[len(asked) - 1]

    monkeypatch.setattr(tensorrt_check, "ask", tell)
    return asked


YES = Answer("1.7", {"parsed": True, "typed": True, "built": True}, 0.5)
NO = Answer(
    "1.7",
    {"parsed": False, "typed": None, "built": None},
    reason="it isn't supported",
    operator="MatMulInteger",
    node="top.0",
)


def test_rows_of_an_accepted_graph(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = answers(monkeypatch, YES)
    found = checked(variant(trained, INT8), trained, tmp_path)
    assert asked == ["quantize_static"]
    assert {row.metric: row.value for row in found.rows} == {
        "parsed": 1.0,
        "typed": 1.0,
        "built": 1.0,
        "build_seconds": 0.5,
    }
    row = found.rows[0]
    assert (row.recipe, row.target, row.scenario) == ("r", "tensorrt", "tensorrt_check")
    assert (row.engine, row.engine_version) == ("tensorrt-rtx", "1.7")
    assert (row.device, row.precision, row.ratio) == ("none (SM89)", "int8", None)
    assert found.variant.status == "skipped"
    assert found.variant.reason == (
        "no_driver: none is here; its graph passed in tensorrt-rtx 1.7 for SM89"
    )
    assert found.artifact is not None
    assert found.artifact.format == "onnx"


def test_the_stage_that_made_the_operator_is_named(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = replace(NO, operator="Loop")
    asked = answers(monkeypatch, NO, NO, YES)
    found = checked(variant(trained, INT8, HALF), trained, tmp_path)
    assert asked == ["convert_fp16", "quantize_static", "export_onnx"]
    rows = {row.metric: row for row in found.rows}
    assert rows["parsed"].value == 0.0
    assert (
        rows["parsed"].reason == "MatMulInteger top.0, made by quantize_static: it isn't supported"
    )
    assert (rows["typed"].value, rows["typed"].reason) == (None, "not parsed")
    assert "was not parsed in tensorrt-rtx" in str(found.variant.reason)
    answers(monkeypatch, NO, other)  # refused before too, for something else
    again = checked(variant(trained, INT8, HALF), trained, tmp_path)
    assert "made by convert_fp16" in str(again.rows[0].reason)


def test_a_child_without_an_answer_is_a_failed_row(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = Answer(
        "1.7",
        {"parsed": True, "typed": True, "built": None},
        reason="was killed by SIGSEGV, before the graph was built",
        answered=False,
    )
    answers(monkeypatch, lost, YES)
    rows = {row.metric: row for row in checked(variant(trained), trained, tmp_path).rows}
    assert (rows["typed"].value, rows["built"].value) == (1.0, None)
    assert rows["built"].status == "failed"
    assert rows["built"].reason == ("the child was killed by SIGSEGV, before the graph was built")


def test_a_graph_that_cannot_be_made_fails_the_variant(trained: Trained, tmp_path: Path) -> None:
    wrong = ("quantize_static", {"exclude": ["nothing"]})
    found = checked(variant(trained, wrong), trained, tmp_path)
    assert (found.variant.status, found.rows, found.artifact) == ("failed", (), None)
    assert "'nothing' matches no layer" in str(found.variant.reason)


def test_without_the_package_the_skipped_row_says_so(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_check, "installed", lambda: None)
    item = variant(trained)
    assert unchecked(item).reason == (
        "no_driver: none is here; its graph wasn't checked either: tensorrt-rtx isn't installed "
        "(the 'tensorrt-rtx' extra)"
    )
    other = variant(trained, target="ort-cuda")
    assert unchecked(other) == other
    assert not checkable([item])
    monkeypatch.setattr(tensorrt_check, "installed", lambda: "1.7")
    assert unchecked(item) == item
    assert checkable([other, item])
    assert not checkable([other])


@RTX
def test_real_graphs(trained: Trained, tmp_path: Path) -> None:
    for stages in ((), (HALF,), (INT8,), (INT8, HALF)):
        found = checked(variant(trained, *stages), trained, tmp_path)
        values = {row.metric: row.value for row in found.rows}
        assert (values["parsed"], values["typed"], values["built"]) == (1.0, 1.0, 1.0)
        assert values["build_seconds"] is not None
    for stages, told in (
        ((STATIC,), r"QuantizeLinear"),
        ((DYNAMIC,), r"DynamicQuantizeLinear"),
    ):
        row = checked(variant(trained, *stages), trained, tmp_path).rows[0]
        assert (row.metric, row.value) == ("parsed", 0.0)
        assert str(row.reason).startswith(told)
        assert f"made by {stages[0][0]}" in str(row.reason)
