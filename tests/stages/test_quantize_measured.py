"""Int8 chosen product by product: mixed graphs, what is measured, limits of quality. No test here
depends on a clock: times are given by product and kind."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_lists import lists_context, save_lists
from onnx import numpy_helper

from harness.artifact import Artifact, ModelSpec
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.stages import quantize_measured as stage_file
from harness.stages.base import Context, Outcome
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import constants, load_graph, ort_scores, row_batches
from harness.stages.int8_options import damage_to, timed_batches
from harness.stages.mixed_int8 import Plan, Products, find_products, mixed
from harness.stages.pairing import Call
from harness.stages.qdq import integer_kernels
from harness.stages.quantize_measured import quantize_measured
from harness.stages.reference import reference_scores
from harness.stages.retraining import validation_loss
from harness.stages.saturation import relative_gap
from harness.stages.served import served_loss
from harness.tables import Prepared

LAYERS = ("bottom.0", "bottom.2", "top.0", "top.2")
SASREC = ModelSpec("sasrec", {"dim": 16, "heads": 2, "blocks": 1, "hidden": 24, "top": 20})
Times = Mapping[str, float]


def timer(times: Times) -> Callable[..., dict[str, np.ndarray]]:
    """A timer by which fp32 takes 1 s and each call the seconds given for it; what isn't given is
    10 % slower than fp32. Every call is made once."""

    def run(calls: Mapping[str, Call], *, batches: int, seconds: float) -> dict[str, np.ndarray]:
        assert seconds > 0
        for name, call in calls.items():
            for at in range(batches):
                assert call(at), name
        return {n: np.full(20, 1.0 if n == "fp32" else times.get(n, 1.1)) for n in calls}

    return run


@pytest.fixture
def measure(
    onnx_artifact: Artifact, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """``measure(times, **parameters)``: the stage on the tiny DLRM, with these times."""

    def run(times: Times, *, name: str = "out", **parameters: object) -> Outcome:
        monkeypatch.setattr(stage_file, "paired_times", timer(times))
        chosen = {"max_loss_increase": 1.0, "rows": 8} | parameters
        return quantize_measured(onnx_artifact, make_context(name), **chosen)  # type: ignore[arg-type]

    return run


@pytest.fixture
def products(onnx_artifact: Artifact, make_context: Callable[..., Context]) -> Products:
    context = make_context("products")
    return products_of(onnx_artifact, context)


def products_of(artifact: Artifact, context: Context) -> Products:
    split = context.data.splits["train"]
    return find_products(
        load_graph(artifact),
        row_batches(context.data, split, np.arange(500), artifact.inputs),
        kinds=("dynamic", "static"),
        per_channel=True,
        reduce_range=True,
        keep_last=True,
        exclude=(),
    )


def weights_of(model: onnx.ModelProto) -> dict[str, str]:
    """The constant that each layer multiplies with."""
    return {n.name: n.input[1] for n in model.graph.node if n.op_type in ("MatMul", "Gemm")}


def effects(outcome: Outcome) -> dict[str, float]:
    return {effect.name: effect.after for effect in outcome.effects}


def kinds_in(artifact: Artifact) -> dict[str, str]:
    """Which kind each layer has in a file."""
    graph = onnx.load(artifact.file).graph
    static = {t.name.removesuffix(".weight_codes") for t in graph.initializer if "_codes" in t.name}
    whole = [node.name for node in graph.node if node.op_type == "MatMulInteger"]
    dynamic = [name.removesuffix("_quant").removesuffix("_MatMul") for name in whole]
    return dict.fromkeys(static, "static") | dict.fromkeys(dynamic, "dynamic")


def test_a_mixed_graph_quantises_what_the_plan_says_and_nothing_else(
    products: Products, onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    before = products.model.SerializeToString()
    plan: Plan = {"bottom.0": "static", "top.0": "dynamic", "top.2": "static"}
    made = mixed(products, plan)
    assert products.model.SerializeToString() == before
    onnx.checker.check_model(made)
    operators = [node.op_type for node in made.graph.node]
    assert operators.count("MatMulInteger") == 1
    assert operators.count("QuantizeLinear") == 2
    assert integer_kernels(made.SerializeToString()) == 3
    old, new = constants(products.model), constants(made)
    weights = weights_of(products.model)
    for name in (weights["bottom.2"], weights["top.4"], "bottom.2.bias"):
        here, there = (numpy_helper.to_array(known[name]) for known in (old, new))
        np.testing.assert_array_equal(here, there)
    assert not {weights[name] for name in plan} & set(new)
    assert numpy_helper.to_array(new[f"{weights['top.0']}_quantized"]).dtype == np.int8
    context = make_context("x")
    batch = next(
        row_batches(context.data, context.data.splits["test"], np.arange(200), onnx_artifact.inputs)
    )
    exact, found = ort_scores(products.model)(batch), ort_scores(made)(batch)
    assert 0 < np.sqrt(np.mean((exact - found) ** 2)) < 0.05 * exact.std()
    assert (
        relative_gap(reference_scores(made)(batch), ort_scores(made, optimise=False)(batch)) < 0.01
    )
    np.testing.assert_array_equal(ort_scores(mixed(products, {}))(batch), exact)


def test_each_product_gets_the_kind_that_is_quickest(
    measure: Callable[..., Outcome], onnx_artifact: Artifact, file_hashes: Callable[..., object]
) -> None:
    before = file_hashes(onnx_artifact.folder)
    times = {
        "bottom.0: dynamic": 0.9,
        "bottom.0: static": 0.8,
        "top.0: dynamic": 0.5,
        "top.0: static": 0.6,
        "top.2: dynamic": 1.0,
        "measured": 0.4,
        "dynamic": 0.45,
        "static": 0.4,
        "int8": 0.4,
    }
    outcome = measure(times)
    assert file_hashes(onnx_artifact.folder) == before
    assert kinds_in(outcome.artifact) == {"bottom.0": "static", "top.0": "dynamic"}
    assert outcome.artifact.precision == "int8"
    quantised = outcome.effects[0]
    assert (quantised.name, quantised.after, quantised.asked) == ("quantised_ops", 2, 4)
    found = effects(outcome)
    assert (found["dynamic_ops"], found["static_ops"]) == (1, 1)
    assert found["speedup"] == pytest.approx(2.5)
    assert found["damage"] > 0
    assert found["model_bytes"] < onnx_artifact.bytes
    notes = outcome.notes
    assert notes[0] == (
        "quicker than fp32: 2.50x [2.50, 2.50], timed on 8 rows, 1 to a request, 1 threads"
    )
    assert notes[1] == "1 graphs judged, at once; the loss may grow by 100.00%"
    assert notes[2] == "dynamic int8: the scores of a row depend on the batch it is in"
    told = {note.split(": ")[0]: note for note in notes[3:7]}
    assert tuple(told) == LAYERS
    assert "dynamic 2.00x [2.00, 2.00], quicker than fp32, mean squared" in told["top.0"]
    assert told["top.0"].endswith("dynamic kept")
    assert "dynamic 1.00x [1.00, 1.00], as quick as fp32 within noise" in told["top.2"]
    assert "static 0.91x [0.91, 0.91], slower than fp32" in told["top.2"]
    assert told["top.2"].endswith("fp32 kept")
    assert notes[7].startswith("int8: bottom.0, top.0 (")
    assert "kept in fp32: top.4" in notes


def test_all_in_one_kind_where_that_is_quicker_yet(measure: Callable[..., Outcome]) -> None:
    times = {"top.0: dynamic": 0.9, "measured": 0.9, "dynamic": 0.95, "static": 0.7, "int8": 0.7}
    outcome = measure(times)
    assert kinds_in(outcome.artifact) == dict.fromkeys(LAYERS, "static")
    assert "all in static int8 was quicker than each in its best kind" in outcome.notes
    alone = {"dynamic": 0.9, "static": 1.2, "int8": 0.9}  # no product gains by itself
    assert kinds_in(measure(alone, name="alone").artifact) == dict.fromkeys(LAYERS, "dynamic")


def test_nothing_quicker_is_a_failure(measure: Callable[..., Outcome]) -> None:
    with pytest.raises(
        EffectError,
        match=r"nothing is quicker in int8 here; bottom\.0: dynamic 0\.91x .* slower than fp32",
    ):
        measure({"measured": 1.0})
    with pytest.raises(EffectError, match=r"no effect: slower than fp32, 0\.91x .* with top\.0 in"):
        measure({"top.0: static": 0.5, "measured": 0.5}, name="whole")


def test_slower_ones_are_let_through_on_request_and_called_so(
    measure: Callable[..., Outcome],
) -> None:
    outcome = measure({"measured": 1.0}, kinds="static", min_speedup=0.5)
    assert kinds_in(outcome.artifact) == dict.fromkeys(LAYERS, "static")
    assert outcome.notes[0].startswith("slower than fp32: 0.91x")
    assert effects(outcome)["static_ops"] == 4
    assert "dynamic_ops" not in effects(outcome)


def test_steps_back_on_a_graph_by_hand(
    measure: Callable[..., Outcome], products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss is 1 and a tenth for each int8 product, two tenths for top.0; 1.2 is allowed. Damage is
    1 for each product, 4 for top.0. Saved: bottom.0 and bottom.2 1/2, top.0 3/4, top.2 1/4. Damage
    for time: 2, 2, 5.3, 4. So top.0 goes (loss 1.3), then top.2 (1.2), which is good; top.0, tried
    again, makes 1.4."""
    times = {"bottom.0": 0.5, "bottom.2": 0.5, "top.0": 0.25, "top.2": 0.75}
    cost = dict.fromkeys(LAYERS, 0.1) | {"top.0": 0.2}
    harm = dict.fromkeys(LAYERS, 1.0) | {"top.0": 4.0}

    weights = weights_of(products.model)

    def left(model: onnx.ModelProto) -> list[str]:
        known = constants(model)
        return [name for name in LAYERS if weights[name] not in known]

    monkeypatch.setattr(
        stage_file, "served_loss", lambda model, *given: 1 + sum(cost[n] for n in left(model))
    )
    monkeypatch.setattr(
        stage_file, "damage_to", lambda *given: lambda model: sum(harm[n] for n in left(model))
    )
    given = {f"{name}: static": spent for name, spent in times.items()}
    given |= {"measured": 0.2, "int8": 0.3}
    outcome = measure(given, kinds="static", max_loss_increase=0.201)
    assert kinds_in(outcome.artifact) == {"bottom.0": "static", "bottom.2": "static"}
    loss = next(effect for effect in outcome.effects if effect.name == "validation_loss")
    assert (loss.before, loss.after, loss.unit) == (1.0, pytest.approx(1.2), "nats")
    assert outcome.notes[1] == (
        "4 graphs judged, nothing more could be put back; for quality top.0 static -> fp32, "
        "top.2 static -> fp32; the loss may grow by 20.10%"
    )
    with pytest.raises(EffectError, match=r"the 2 trials were used up, and no graph of 2 kept"):
        measure(given, kinds="static", max_loss_increase=0.201, trials=2, name="short")
    with pytest.raises(
        EffectError, match=r"no product may be int8: with one alone left, loss 1\.1"
    ):
        measure(given, kinds="static", max_loss_increase=0.05, name="strict")


def test_the_loss_that_is_told_is_that_of_the_file(
    measure: Callable[..., Outcome], onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    times = {"top.0: dynamic": 0.5, "measured": 0.5, "int8": 0.5}
    outcome = measure(times)
    context = make_context("again")
    loss = next(effect for effect in outcome.effects if effect.name == "validation_loss")
    assert loss.before == served_loss(load_graph(onnx_artifact), onnx_artifact, context)
    assert loss.after == served_loss(load_graph(outcome.artifact), outcome.artifact, context)
    assert loss.before != loss.after


def test_the_loss_of_a_graph_is_that_of_its_module(
    tiny_artifact: Artifact, onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    context = make_context("x")
    module = load_module(tiny_artifact)
    right = validation_loss(module, context, tiny_artifact.inputs, context.training)
    assert served_loss(load_graph(onnx_artifact), onnx_artifact, context) == pytest.approx(right)


def test_damage_by_hand(onnx_artifact: Artifact, make_context: Callable[..., Context]) -> None:
    """A last bias that is 0.5 higher: every score differs by 0.5."""
    context, model = make_context("x"), load_graph(onnx_artifact)
    damage = damage_to(model, onnx_artifact, context)
    assert damage(model) == 0.0
    bias = constants(model)["top.4.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    assert damage(model) == pytest.approx(0.25, rel=1e-5)
    bias.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), bias.name))
    assert damage(model) == np.inf


def test_a_product_without_a_range_may_still_be_dynamic(
    onnx_artifact: Artifact,
    make_context: Callable[..., Context],
    tiny: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers that are all zero feed bottom.0."""
    train = tiny.splits["train"]
    zero = {n: np.zeros_like(train.arrays[n]) for n in ("user_values", "candidate_values")}
    splits = {**tiny.splits, "train": replace(train, arrays={**train.arrays, **zero})}
    context = make_context("zero", data=replace(tiny, splits=splits))
    times = {"bottom.0: dynamic": 0.5, "measured": 0.5, "int8": 0.5}
    monkeypatch.setattr(stage_file, "paired_times", timer(times))
    outcome = quantize_measured(onnx_artifact, context, max_loss_increase=1.0)
    assert kinds_in(outcome.artifact) == {"bottom.0": "dynamic"}
    (told,) = (note for note in outcome.notes if note.startswith("bottom.0: "))
    assert "static can't be had (range of the input of bottom.0 is 0" in told


def test_a_product_that_is_not_run_in_integers_is_left_with_the_reason(
    measure: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.stages.int8_options.integer_kernels", lambda source: 0)
    with pytest.raises(EffectError, match=r"dynamic can't be had \(onnxruntime doesn't run it in"):
        measure({})


def test_batches_have_the_shape_asked_for(
    onnx_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    context = make_context("x")
    batches = timed_batches(onnx_artifact, context, rows=24, candidates=6)
    assert {batch["user"].shape[0] for batch in batches} == {4}
    assert {batch["candidates"].shape[:2] for batch in batches} == {(4, 6)}
    assert len({batch["candidates"].tobytes() for batch in batches}) == len(batches) == 8
    with pytest.raises(UnsupportedError, match="candidates: 7 of rows: 24 to a request"):
        timed_batches(onnx_artifact, context, rows=24, candidates=7)


def test_what_cannot_be_asked(
    onnx_artifact: Artifact, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedError, match="min_overlap is for lists; the task is click"):
        quantize_measured(onnx_artifact, make_context("a"), min_overlap=0.9)
    monkeypatch.setattr(stage_file, "LARGEST", 100)
    with pytest.raises(UnsupportedError, match="bytes, of which several copies would be in memory"):
        quantize_measured(onnx_artifact, make_context("b"))


@pytest.fixture(scope="session")
def lists(tiny_sequences: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("measured")
    artifact = save_lists(tiny_sequences, SASREC, folder / "sasrec")
    context = lists_context(tiny_sequences, artifact, folder / "onnx")
    return export_onnx(artifact, context).artifact


def test_lists_keep_their_items(
    lists: Artifact, tiny_sequences: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every product gains; the overlap told is that of the file, within what was asked."""
    names = products_of(lists, lists_context(tiny_sequences, lists, tmp_path / "p")).names
    assert len(names) == 6
    times = {f"{name}: dynamic": 0.9 for name in names}
    monkeypatch.setattr(stage_file, "paired_times", timer({**times, "measured": 0.5, "int8": 0.5}))
    context = lists_context(tiny_sequences, lists, tmp_path / "out")
    outcome = quantize_measured(lists, context, min_overlap=0.9, rows=16, calibration_rows=64)
    missed = effects(outcome)["damage"]
    assert 0 < missed <= 0.1
    assert missed == damage_to(load_graph(lists), lists, context)(load_graph(outcome.artifact))
    assert outcome.notes[1].endswith("list overlap at least 0.9")
    units = {effect.name: effect.unit for effect in outcome.effects}
    assert units["damage"] == "share of the lists missed"
    assert units["validation_loss"] == "1 - NDCG@10"
    assert "embedding tables stay fp32" in outcome.notes[-1]
    context = lists_context(tiny_sequences, lists, tmp_path / "wide")
    with pytest.raises(UnsupportedError, match="since requests are answered with lists"):
        quantize_measured(lists, context, rows=16, candidates=2)
    monkeypatch.setattr(stage_file, "damage_to", lambda *given: lambda model: 0.02)
    with pytest.raises(EffectError, match=r"no product may be int8.* list overlap 0\.9800; allow"):
        quantize_measured(lists, context, min_overlap=0.985, rows=16, calibration_rows=64)
