"""Static int8: ranges from training rows, what stays in fp32, and refusals."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from harness.artifact import Artifact, read_artifact
from harness.errors import DataError, EffectError
from harness.registry import ValidationError, bind
from harness.stages.base import Context
from harness.stages.graphs import draw_rows, ort_scores, random_feeds, row_batches
from harness.stages.qdq import input_scale, weight_scales
from harness.stages.quantize_static import measure_ranges, quantize_static
from harness.tables import Prepared


def initialisers(artifact: Artifact) -> dict[str, np.ndarray]:
    model = onnx.load(artifact.file)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def changed(data: Prepared, name: str, array: np.ndarray) -> Prepared:
    train = data.splits["train"]
    arrays = {**train.arrays, name: array}
    return replace(data, splits={**data.splits, "train": replace(train, arrays=arrays)})


def test_layers_but_the_last_run_in_integers_and_scores_stay_close(
    onnx_artifact: Artifact,
    make_context: Callable[..., Context],
    file_hashes: Callable[..., object],
) -> None:
    before = file_hashes(onnx_artifact.folder)
    outcome = quantize_static(onnx_artifact, make_context("int8"))
    assert file_hashes(onnx_artifact.folder) == before
    made = outcome.artifact
    assert replace(made, model=onnx_artifact.model) == replace(
        read_artifact(made.folder), model=onnx_artifact.model
    )
    assert (made.precision, made.format) == ("int8", "onnx")
    quantised = outcome.effects[0]
    assert (quantised.name, quantised.before, quantised.after, quantised.asked) == (
        "quantised_ops", 0, 4, 4,
    )  # fmt: skip
    assert "kept in fp32: top.4" in outcome.notes
    rows = make_context("y").data.splits["train"].rows
    assert f"calibrated by minmax on {rows} training rows, seed 11" in outcome.notes
    feeds = random_feeds(made, make_context("x").data, sizes=(20, 10), seed=3)
    exact, rounded = ort_scores(onnx_artifact.file)(feeds), ort_scores(made.file)(feeds)
    assert 0 < np.sqrt(np.mean((exact - rounded) ** 2)) < 0.05 * exact.std()
    assert len(np.unique(rounded)) > 150


def test_two_runs_have_the_same_bytes(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    first, second = (
        quantize_static(onnx_rec, make_context(f"{name}")).artifact for name in ("a", "b")
    )
    one, two = initialisers(first), initialisers(second)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_ranges_are_those_of_the_rows(onnx_rec: Artifact, tiny: Prepared) -> None:
    model = onnx.load(onnx_rec.file)
    tables = {
        name: array for name, array in initialisers(onnx_rec).items() if array.shape[-1:] == (8,)
    }
    split = tiny.splits["train"]
    rows = draw_rows(split, count=10, seed=0)
    layer = next(node for node in model.graph.node if node.name == "f1")
    batches = row_batches(tiny, split, rows, onnx_rec.inputs)
    low, high = measure_ranges(model, [layer.input[0]], batches, method="minmax", percentile=99.0)[
        layer.input[0]
    ]
    used = np.concatenate(
        [
            tables["user.weight"][split.user_of_row[rows]],
            tables["item.weight"][split.arrays["candidates"][rows, 0]],
        ]
    )
    assert (low, high) == (float(used.min()), float(used.max()))


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_clipping_methods_give_ranges_inside_the_whole(
    onnx_rec: Artifact, tiny: Prepared, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, split = onnx.load(onnx_rec.file), tiny.splits["train"]
    name = next(node for node in model.graph.node if node.name == "f1").input[0]

    def batches() -> object:
        return row_batches(tiny, split, np.arange(600), onnx_rec.inputs)

    whole = measure_ranges(model, [name], batches(), method="minmax", percentile=90.0)[name]  # type: ignore[arg-type]
    part = measure_ranges(model, [name], batches(), method=method, percentile=90.0)[name]  # type: ignore[arg-type]
    assert whole[0] <= part[0] < 0 < part[1] <= whole[1]
    assert part != whole or method == "entropy"
    assert capsys.readouterr().out == ""


def test_a_row_that_is_not_a_number_is_refused_by_place(
    onnx_artifact: Artifact, make_context: Callable[..., Context], tiny: Prepared
) -> None:
    price = np.array(tiny.splits["train"].arrays["candidate_values"])
    price[5, 0] = np.nan
    context = make_context("int8", data=changed(tiny, "candidate_values", price))
    with pytest.raises(DataError, match=r"train row 10005, field 'price': value is nan"):
        quantize_static(onnx_artifact, context, calibration_rows=100_000)
    assert list(context.folder.iterdir()) == []


def test_a_range_of_zero_is_refused_by_name(
    onnx_artifact: Artifact, make_context: Callable[..., Context], tiny: Prepared
) -> None:
    data = changed(
        tiny, "candidate_values", np.zeros_like(tiny.splits["train"].arrays["candidate_values"])
    )
    data = changed(data, "user_values", np.zeros_like(tiny.splits["train"].arrays["user_values"]))
    with pytest.raises(EffectError, match=r"range of the input of bottom\.0 is 0"):
        quantize_static(onnx_artifact, make_context("int8", data=data))


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        bind("stages", "quantize_static", {"calibration_rows": 0})


def test_patterns_name_layers_and_must_match(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    outcome = quantize_static(onnx_artifact, make_context("a"), exclude=("bottom.*",))
    assert outcome.effects[0].after == 2
    assert "kept in fp32: bottom.0, bottom.2, top.4" in outcome.notes
    with pytest.raises(EffectError, match=r"'towre' matches no layer; the layers are bottom\.0"):
        quantize_static(onnx_artifact, make_context("b"), exclude=("towre",))
    with pytest.raises(EffectError, match="nothing to quantise"):
        quantize_static(onnx_artifact, make_context("c"), exclude=("*",))


def test_scales_by_hand() -> None:
    assert input_scale(0.0, 2.55, name="x") == (float(np.float32(0.01)), 0)
    scale, zero = input_scale(-1.0, 1.55, name="x")
    assert (round(scale, 6), zero) == (0.01, 100)
    assert input_scale(1.0, 2.55, name="x")[1] == 0
    weight = np.array([[1.0, 0.0], [-2.54, 0.0]], np.float32)
    assert np.allclose(weight_scales(weight, limit=127), [0.02, 1.0])
    assert np.allclose(weight_scales(weight, limit=127, per_channel=False), [0.02, 0.02])
    with pytest.raises(EffectError, match="range of x is 0"):
        input_scale(0.0, 0.0, name="x")
    with pytest.raises(EffectError, match=r"range of x is 0\.0 to inf"):
        input_scale(0.0, float("inf"), name="x")


def test_weight_codes_keep_to_seven_bits_unless_asked(
    onnx_rec: Artifact, make_context: Callable[..., Context]
) -> None:
    for name, reduce_range, limit in (("a", True, 64), ("b", False, 127)):
        made = quantize_static(onnx_rec, make_context(name), reduce_range=reduce_range).artifact
        codes = [a for n, a in initialisers(made).items() if n.endswith(".weight_codes")]
        assert [array.dtype for array in codes] == [np.int8, np.int8]
        assert max(int(np.abs(array).max()) for array in codes) == limit
