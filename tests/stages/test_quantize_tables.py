"""Tables in few bits: bytes, labels, what is left alone, what is chosen, both CPU engines."""

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from harness import native
from harness.artifact import Artifact, ModelSpec
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.errors import DataError, EffectError, UnsupportedError
from harness.stages import quantize_tables as quantizing
from harness.stages.base import Context
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import load_graph, random_feeds
from harness.stages.lookup_timing import Compared
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.quantize_tables import quantize_tables

ROWS, DIM = 41 + 31, 8  # households and products; weekdays and brands are below 20 rows


def facts(outcome) -> dict[str, tuple[float, float, float | None]]:
    return {e.name: (e.before, e.after, e.asked) for e in outcome.effects}


@pytest.mark.parametrize(
    ("bits", "form", "row", "label"),
    [
        (8, "plain", DIM + 8, "int8"),
        (8, "block", DIM + 5, "int8"),
        (4, "plain", DIM // 2 + 4, "int4"),
        (4, "block", DIM // 2 + 3, "int4"),
        (16, "plain", DIM * 2, "fp16"),
    ],
)
def test_bytes_are_as_asked_and_the_label_is_what_is_stored(
    bits,
    form,
    row,
    label,
    onnx_artifact: Artifact,
    make_context: Callable[..., Context],
    file_hashes,
) -> None:
    before = file_hashes(onnx_artifact.folder)
    outcome = quantize_tables(onnx_artifact, make_context("q"), bits=bits, form=form, min_rows=20)
    assert file_hashes(onnx_artifact.folder) == before
    found = facts(outcome)
    assert found["table_bytes"] == (ROWS * DIM * 4, ROWS * row, ROWS * row)
    assert found["quantised_rows"] == (0, ROWS, ROWS)
    assert found["tables_left_alone"] == (4, 2, None)
    bound = {4: 0.12, 8: 0.008, 16: 0.0005}[bits]
    assert 0 < found["row_error_mean"][1] < found["row_error_worst"][1] < bound
    assert outcome.artifact.precision == f"fp32 compute, {label} weights"
    assert outcome.notes[-1] == (
        "tables left alone: inputs.tables.1.weight (8 rows), inputs.tables.3.weight (7 rows)"
    )
    batch = random_feeds(outcome.artifact, make_context("x").data, sizes=(20, 10), seed=3)
    with OrtCpu(onnx_artifact, threads=1) as plain, OrtCpu(outcome.artifact, threads=1) as narrow:
        exact, rounded = plain.score(batch), narrow.score(batch)
        assert narrow.describe().precision == outcome.artifact.precision
    assert 0 < np.sqrt(np.mean((exact - rounded) ** 2)) < bound * 3 * exact.std()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_openvino_runs_the_plain_form(
    bits, onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    made = quantize_tables(
        onnx_artifact, make_context("q"), bits=bits, form="plain", min_rows=20
    ).artifact
    batch = random_feeds(made, make_context("x").data, sizes=(6, 5), seed=3)
    with OrtCpu(made, threads=1) as ort, OpenVinoCpu(made, threads=1) as openvino:
        np.testing.assert_allclose(openvino.score(batch), ort.score(batch), atol=1e-4)
        assert openvino.describe().precision == made.precision


@pytest.mark.parametrize("quick", ["plain", "native", "block"])
def test_the_quickest_form_is_kept(
    quick, onnx_artifact: Artifact, make_context: Callable[..., Context], monkeypatch
) -> None:
    def timed(calls, *, batches):
        assert list(calls) == ["fp32", "plain", "native", "block"]
        assert batches == 8
        for call in calls.values():
            call(batches - 1)
        return Compared(factor, 1e-5)

    factor = {form: 1.5 if form == quick else 2.0 for form in ("plain", "native", "block")}
    monkeypatch.setattr(quantizing, "compare", timed)
    outcome = quantize_tables(onnx_artifact, make_context("q"), min_rows=20)
    operators = [node.op_type for node in onnx.load(outcome.artifact.file).graph.node]
    assert operators.count("GatherBlockQuantized") == (2 if quick == "block" else 0)
    assert operators.count("Lookup") == (2 if quick == "native" else 0)
    assert outcome.notes[0] == (
        "512 ids of 2 tables, onnxruntime on one thread: fp32 took 10.0 us, of its time plain "
        f"{factor['plain']:.2f}x, native {factor['native']:.2f}x, block {factor['block']:.2f}x; "
        f"{quick} was kept"
    )
    assert outcome.notes[1].startswith("smaller but slower: look-ups take 1.50x")


def test_a_form_that_onnxruntime_lacks_is_named(
    onnx_artifact: Artifact, make_context: Callable[..., Context], monkeypatch
) -> None:
    real = quantizing.lookup_call

    def lacking(tables, batches):
        if getattr(tables[0][1], "grid", "") == "zero_point":
            raise RuntimeError("no such operator\nat all")
        return real(tables, batches)

    monkeypatch.setattr(quantizing, "lookup_call", lacking)
    outcome = quantize_tables(onnx_artifact, make_context("a"), min_rows=20)
    assert outcome.notes[0] == "block: not to be had here (no such operator)"
    assert re.search(r"; (plain|native) was kept", outcome.notes[1])
    with pytest.raises(UnsupportedError, match=r"no form of look-up runs here; block: not to be"):
        quantize_tables(onnx_artifact, make_context("b"), form="block", min_rows=20)


@pytest.mark.parametrize("bits", [4, 8])
def test_our_operator_looks_up_the_rows_of_the_plain_form(
    bits, onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    plain, native = (
        quantize_tables(onnx_artifact, make_context(form), bits=bits, form=form, min_rows=20)
        for form in ("plain", "native")
    )
    assert facts(plain)["table_bytes"] == facts(native)["table_bytes"]
    batch = random_feeds(native.artifact, make_context("x").data, sizes=(6, 5), seed=3)
    with OrtCpu(plain.artifact, threads=1) as one, OrtCpu(native.artifact, threads=1) as other:
        np.testing.assert_array_equal(other.score(batch), one.score(batch))
        assert other.describe().precision == one.describe().precision


def test_without_a_compiler_another_form_is_kept(
    onnx_artifact: Artifact, make_context: Callable[..., Context], monkeypatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    outcome = quantize_tables(onnx_artifact, make_context("a"), min_rows=20)
    native.library.cache_clear()
    assert outcome.notes[0].startswith(
        "native: not to be had here (native operators: no C++ compiler (no-such-compiler)"
    )
    assert re.search(r"; (plain|block) was kept", outcome.notes[1])


def test_some_tables_after_others(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    one = quantize_tables(
        onnx_artifact, make_context("a"), form="plain", min_rows=1, fields=("household",)
    )
    assert facts(one)["quantised_rows"] == (0, 41, 41)
    assert "inputs.tables.2.weight (not asked for)" in one.notes[-1]
    two = quantize_tables(one.artifact, make_context("b"), bits=4, form="plain", min_rows=20)
    assert facts(two)["quantised_rows"] == (0, 31, 31)
    assert two.artifact.precision == "fp32 compute, int4 weights"
    with pytest.raises(EffectError, match="no embedding table to change; ") as caught:
        quantize_tables(two.artifact, make_context("c"), bits=16, min_rows=20)
    told = str(caught.value).partition("; ")[2].split("), ")
    assert sorted(one.removesuffix(")") for one in told) == [
        "inputs.tables.0.weight (not in fp32",
        "inputs.tables.1.weight (8 rows",
        "inputs.tables.2.weight (not in fp32",
        "inputs.tables.3.weight (7 rows",
    ]


def test_beside_int8_products_the_label_stays(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    products = quantize_dynamic(onnx_artifact, make_context("a")).artifact
    both = quantize_tables(products, make_context("b"), bits=4, form="plain", min_rows=20).artifact
    assert both.precision == "int8"
    with OrtCpu(both, threads=1) as engine:
        assert engine.describe().precision == "int8"


def changed(artifact: Artifact, value: float) -> None:
    model = load_graph(artifact)
    tensor = next(t for t in model.graph.initializer if t.name == "inputs.tables.0.weight")
    table = onnx.numpy_helper.to_array(tensor).copy()
    table[17, 2] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(table, tensor.name))
    onnx.save(model, artifact.file)


def test_what_cannot_be_coded_is_refused(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(UnsupportedError, match="form: block has 4 or 8 bits"):
        quantize_tables(onnx_artifact, make_context("a"), bits=16, form="block")
    changed(onnx_artifact, 1e6)
    with pytest.raises(DataError, match=r"inputs\.tables\.0\.weight, row 17: .* scales: fp32"):
        quantize_tables(onnx_artifact, make_context("b"), bits=4, min_rows=20)
    changed(onnx_artifact, np.inf)
    with pytest.raises(DataError, match=r"inputs\.tables\.0\.weight, row 17: a value is not"):
        quantize_tables(onnx_artifact, make_context("c"), min_rows=20)


def test_a_table_too_narrow_to_shrink_stays(
    save_artifact: Callable[..., Artifact], make_context: Callable[..., Context]
) -> None:
    torch_artifact = save_artifact(ModelSpec("mlp", {"dim": 2, "widths": [4]}), name="narrow")
    narrow = export_onnx(torch_artifact, make_context("exported")).artifact
    with pytest.raises(EffectError, match=r"no effect; .*0\.weight \(2 columns; it wouldn't shr"):
        quantize_tables(narrow, make_context("a"), min_rows=20)  # 10 bytes a row, 8 before
    made = quantize_tables(narrow, make_context("b"), bits=4, form="plain", min_rows=20)
    assert facts(made)["table_bytes"] == (ROWS * 8, ROWS * 5, ROWS * 5)
