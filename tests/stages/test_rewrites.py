"""The exact rewrites: same scores, less work, before and after other stages, or refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from made_forms import SHAPES

from harness import registry
from harness.artifact import Artifact, ModelSpec, Step, read_artifact
from harness.errors import EffectError, UnsupportedError
from harness.models.in_parts import InParts
from harness.modules import (
    build_module,
    load_module,
    model_inputs,
    model_outputs,
    save_module,
)
from harness.objectives import predict
from harness.schema import write_schema
from harness.stages.base import Context, Outcome
from harness.stages.distill import distill
from harness.stages.export_onnx import export_onnx, module_outputs
from harness.stages.finetune import finetune
from harness.stages.fold_tables import fold_tables
from harness.stages.fuse_tables import fuse_tables
from harness.stages.graphs import constants, load_graph, ort_outputs, random_feeds, weighted_nodes
from harness.stages.prune_channels import prune_channels
from harness.stages.quantize_dynamic import quantize_dynamic
from harness.stages.share_user import share_user
from harness.tables import Prepared

REWRITES = {"share_user": share_user, "fold_tables": fold_tables, "fuse_tables": fuse_tables}
PAIR = ModelSpec("two_embedding", {"dim": 8, "widths": [32, 16], "spread": 1.0})
USER_FIELDS = ("shared", "folded", "fused")

Make = Callable[..., Context]


@pytest.fixture
def pair_artifact(save_artifact: Callable[..., Artifact]) -> Artifact:
    """An untrained two-embedding network (dim 8, widths 32-16)."""
    return save_artifact(PAIR, name="pair")


@pytest.fixture
def named(
    tiny_artifact: Artifact, mlp_artifact: Artifact, pair_artifact: Artifact
) -> dict[str, Artifact]:
    return {"dlrm": tiny_artifact, "mlp": mlp_artifact, "two_embedding": pair_artifact}


def effects(outcome: Outcome) -> dict[str, tuple[float, float]]:
    return {effect.name: (effect.before, effect.after) for effect in outcome.effects}


def scores_alike(one: Artifact, other: Artifact, data: Prepared) -> None:
    before, after = (load_module(artifact) for artifact in (one, other))
    for at, sizes in enumerate(SHAPES):
        batch = random_feeds(one, data, sizes=sizes, seed=at)
        expected, found = (module_outputs(module, batch)[0] for module in (before, after))
        assert found.shape == sizes
        allowed = 1e-6 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


CASES = [
    ("share_user", "dlrm"),
    ("share_user", "mlp"),
    ("share_user", "two_embedding"),
    ("fold_tables", "mlp"),
    ("fold_tables", "two_embedding"),
    ("fuse_tables", "dlrm"),
    ("fuse_tables", "mlp"),
]


@pytest.mark.parametrize(("stage", "model"), CASES)
def test_same_scores_from_the_new_folder_alone(
    stage: str, model: str, named: dict[str, Artifact], make_context: Make, tiny: Prepared
) -> None:
    outcome = REWRITES[stage](named[model], make_context())
    made = read_artifact(outcome.artifact.folder)
    scores_alike(named[model], made, tiny)
    assert any(made.model.parameters.get(name) for name in USER_FIELDS)
    assert outcome.notes[0].startswith("largest difference of scores: ")
    assert set(effects(outcome)) >= {"macs", "parameters", "operators", "lookups"}


def test_a_new_process_scores_the_same(
    mlp_artifact: Artifact, make_context: Make, tiny: Prepared, score_alone: Callable[..., object]
) -> None:
    made = fuse_tables(
        fold_tables(mlp_artifact, make_context("folded"), max_bytes=4000).artifact,
        make_context("fused"),
    ).artifact
    expected = predict(load_module(mlp_artifact), tiny, tiny.splits["test"], mlp_artifact.inputs)
    np.testing.assert_allclose(score_alone(made), expected, atol=1e-6)


def test_macs_of_an_mlp_by_hand(mlp_artifact: Artifact, make_context: Make) -> None:
    """34 columns: 4 fields of 8 and 2 numbers; 17 of them are the request's, which 64 candidates
    share. Above the first layer 32 x 16 + 16."""
    above = 32 * 16 + 16
    outcome = share_user(mlp_artifact, make_context())
    assert effects(outcome)["macs"] == (34 * 32 + above, (64 * (17 * 32 + above) + 17 * 32) // 64)
    assert effects(outcome)["parameters"][0] == effects(outcome)["parameters"][1]
    assert outcome.notes[1] == "17 of the first layer's 34 columns are read once per request"


def test_macs_of_a_dlrm_by_hand(tiny_artifact: Artifact, make_context: Make) -> None:
    """Vectors of 8: two of the request; bottom, product and brand of a candidate."""
    outcome = share_user(tiny_artifact, make_context())
    bottom, above = 2 * 16 + 16 * 8, 32 * 16 + 16
    before = bottom + 5 * 5 * 8 + (8 + 10) * 32 + above
    own = bottom + 3 * 2 * 8 + 3 * 3 * 8 + (8 + 6 + 3) * 32 + above
    once = 2 * 2 * 8 + 1 * 32
    assert effects(outcome)["macs"] == (before, (64 * own + once) // 64)


def test_macs_of_two_embeddings_by_hand(pair_artifact: Artifact, make_context: Make) -> None:
    above = 32 * 16 + 16
    shared = share_user(pair_artifact, make_context("shared"))
    assert effects(shared)["macs"] == (16 * 32 + above, 8 * 32 + above + 8 * 32 // 64)
    folded = fold_tables(pair_artifact, make_context("folded"))
    assert effects(folded)["macs"] == (16 * 32 + above, above)
    assert effects(folded)["table:household"] == (41 * 8 * 4, 41 * 32 * 4)
    assert effects(folded)["table:product"] == (31 * 8 * 4, 31 * 32 * 4)
    # both tables grow, and the first layer with its bias is gone
    grown = (41 + 31) * (32 - 8) - 32 * 16 - 32
    assert effects(folded)["parameters"][1] - effects(folded)["parameters"][0] == grown


def test_tables_above_the_limit_stay_and_are_named(
    mlp_artifact: Artifact, make_context: Make, tiny: Prepared
) -> None:
    """Folded rows have 32 numbers of 4 bytes: 8 weekdays 1024, 7 brands 896, 31 products 3968."""
    outcome = fold_tables(mlp_artifact, make_context("some"), max_bytes=1024)
    assert outcome.artifact.model.parameters["folded"] == ["weekday", "brand"]
    assert outcome.notes[1] == (
        "above max_bytes 1,024, not folded: household (41 rows, 5,248 bytes folded), "
        "product (31 rows, 3,968 bytes folded)"
    )
    more = fold_tables(outcome.artifact, make_context("more"), max_bytes=4000)
    assert more.artifact.model.parameters["folded"] == ["weekday", "brand", "product"]
    scores_alike(mlp_artifact, more.artifact, tiny)
    with pytest.raises(EffectError, match=r"within max_bytes 4,000: household \(41 rows, 5,248 by"):
        fold_tables(more.artifact, make_context("none"), max_bytes=4000)
    rest = fold_tables(more.artifact, make_context("rest"))
    with pytest.raises(EffectError, match="all are folded already"):
        fold_tables(rest.artifact, make_context("again"))


def test_lookups_of_fused_tables(tiny_artifact: Artifact, make_context: Make) -> None:
    outcome = fuse_tables(tiny_artifact, make_context("fused"))
    assert effects(outcome)["lookups"] == (4, 2)
    assert effects(outcome)["macs"][0] == effects(outcome)["macs"][1]
    assert effects(outcome)["parameters"][0] == effects(outcome)["parameters"][1]
    table = load_module(outcome.artifact).inputs.tables.rows.weight
    one, weekday, product, brand = load_module(tiny_artifact).inputs.tables.weights()
    torch.testing.assert_close(table, torch.cat([one, weekday, product, brand]), rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["share_user", "fuse_tables"])
def test_twice_is_refused(stage: str, mlp_artifact: Artifact, make_context: Make) -> None:
    once = REWRITES[stage](mlp_artifact, make_context("one")).artifact
    with pytest.raises(EffectError, match=f"{stage}: .* is set already in model 'mlp'; leave"):
        REWRITES[stage](once, make_context("two"))


def test_folding_shares_too(mlp_artifact: Artifact, make_context: Make) -> None:
    folded = fold_tables(mlp_artifact, make_context("one"), max_bytes=1024).artifact
    with pytest.raises(EffectError, match="share_user: shared is set already"):
        share_user(folded, make_context("two"))


@pytest.mark.parametrize(
    ("stage", "model"),
    [("share_user", "fm"), ("fold_tables", "dlrm"), ("fuse_tables", "mf"), ("share_user", "file")],
)
def test_other_models_are_refused_by_name(
    stage: str,
    model: str,
    save_artifact: Callable[..., Artifact],
    rec_artifact: Artifact,
    make_context: Make,
) -> None:
    other = rec_artifact if model == "file" else save_artifact(ModelSpec(model, {}), name="other")
    with pytest.raises(UnsupportedError, match=f"{stage}: model '{model}' has no parameter"):
        REWRITES[stage](other, make_context())


def test_a_model_of_two_tables_has_none_to_fuse(
    tiny: Prepared, save_artifact: Callable[..., Artifact], make_context: Make
) -> None:
    fields = tuple(f for f in tiny.schema.fields if f.name in ("household", "product"))
    split = tiny.splits["validation"]
    arrays = {"user": split.arrays["user"], "candidates": split.arrays["candidates"][:, :1]}
    data = replace(
        tiny,
        schema=replace(tiny.schema, fields=fields),
        splits={"validation": replace(split, arrays=arrays)},
    )
    spec = ModelSpec("mlp", {"dim": 4, "widths": [8]})
    context = make_context("made", data=data)
    small = _saved(spec, data, context)
    with pytest.raises(EffectError, match="lookups 2 before, 2 after; neither the request nor"):
        fuse_tables(small, context)


def _saved(spec: ModelSpec, data: Prepared, context: Context) -> Artifact:
    folder = context.folder.with_name("small")
    folder.mkdir()
    write_schema(folder, data.schema, data.vocabularies)
    module = build_module(spec, data.schema, folder=folder, seed=1)
    inputs = model_inputs(module, data.schema)
    return save_module(
        module.eval(),
        Artifact(folder, "torch", spec, inputs, model_outputs(module, inputs)),
        folder,
    )


@pytest.mark.parametrize("stage", ["share_user", "fold_tables"])
def test_a_rewrite_that_changes_scores_is_refused(
    stage: str, mlp_artifact: Artifact, make_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = InParts.state

    def wrong(self: InParts, whole: object) -> dict[str, torch.Tensor]:
        state = honest(self, whole)  # type: ignore[arg-type]
        name = next(name for name in state if name.startswith("own."))
        return {**state, name: state[name] * 1.001}

    monkeypatch.setattr(InParts, "state", wrong)
    with pytest.raises(EffectError, match=f"{stage} isn't exact here: scores differ by"):
        REWRITES[stage](mlp_artifact, make_context())


@pytest.mark.parametrize(("stage", "model"), CASES)
def test_pruned_before(
    stage: str, model: str, named: dict[str, Artifact], make_context: Make, tiny: Prepared
) -> None:
    pruned = prune_channels(named[model], make_context("pruned"), ratio=0.5).artifact
    made = REWRITES[stage](pruned, make_context("made")).artifact
    scores_alike(pruned, made, tiny)
    assert made.widths is not None
    assert made.widths["top.2"] == (8, 16)


@pytest.mark.parametrize(("stage", "model"), CASES)
def test_pruned_after(
    stage: str, model: str, named: dict[str, Artifact], make_context: Make
) -> None:
    """Both parts lose the same channels; a first layer that has folded tables keeps its width."""
    made = REWRITES[stage](named[model], make_context("made")).artifact
    outcome = prune_channels(made, make_context("pruned"), ratio=0.5)
    widths = outcome.artifact.widths
    assert widths is not None
    if stage == "fold_tables":
        assert widths["top.2"] == (8, 32)
        if model == "mlp":  # all fields are folded, numbers are what is left of the first layer
            told = "first.own.linear kept its width: its width is tied to the embedding table first"
            assert told in " ".join(outcome.notes)
        return
    assert widths["top.2"] == (8, 16)
    if stage == "share_user":
        assert widths["first.request.linear"][0] == widths["first.own.linear"][0] == 16
    alone = prune_channels(named[model], make_context("alone"), ratio=0.5).artifact
    if stage == "fuse_tables":
        assert outcome.artifact.macs == alone.macs


def test_trained_on_after(
    mlp_artifact: Artifact, pair_artifact: Artifact, make_context: Make
) -> None:
    shared = share_user(mlp_artifact, make_context("shared")).artifact
    tuned = finetune(shared, make_context("tuned"), epochs=0.2).artifact
    assert tuned.model == shared.model
    folded = fold_tables(pair_artifact, make_context("folded")).artifact
    assert distill(folded, make_context("taught"), epochs=0.2).artifact.model == folded.model
    context = make_context("student", baseline=mlp_artifact)
    student = {"widths": [16, 8]}
    with_step = replace(shared, lineage=(*shared.lineage, *_step("share_user")))
    with pytest.raises(UnsupportedError, match=r"throw away the stages before it \(share_user\)"):
        distill(with_step, context, epochs=0.2, student=student)


def _step(name: str) -> tuple[Step, ...]:
    return (Step(name, {}, 0.0, 0.0, ()),)


@pytest.mark.parametrize(
    ("stages", "model", "lookups"),
    [
        (("share_user", "fuse_tables"), "dlrm", 2),
        (("fuse_tables", "fold_tables"), "mlp", 2),
        (("fold_some", "fuse_tables"), "mlp", 3),  # household's own table, and two folded ones
        (("fold_tables",), "two_embedding", 2),
    ],
)
def test_exported_and_quantised(
    stages: tuple[str, ...],
    model: str,
    lookups: int,
    named: dict[str, Artifact],
    make_context: Make,
    tiny: Prepared,
) -> None:
    some = partial(fold_tables, max_bytes=4000)
    made = named[model]
    for stage in stages:
        made = {**REWRITES, "fold_some": some}[stage](made, make_context(stage)).artifact
    exported = export_onnx(made, make_context("onnx")).artifact
    run, before = ort_outputs(exported.file), load_module(named[model])
    for at, sizes in enumerate(SHAPES):
        batch = random_feeds(exported, tiny, sizes=sizes, seed=at)
        expected = module_outputs(before, batch)[0]
        np.testing.assert_allclose(run(batch)[0], expected, atol=2e-6 * max(1, abs(expected).max()))
    graph = load_graph(exported)
    tables = {name for name, t in constants(graph).items() if t.data_type == 1}
    gathers = [n for n in graph.graph.node if n.op_type == "Gather" and n.input[0] in tables]
    assert len(gathers) == lookups
    weighted = {node.name for node in weighted_nodes(graph, ("MatMul", "Gemm"))}
    assert weighted == set(exported.widths or {})
    outcome = quantize_dynamic(exported, make_context("int8"))
    assert outcome.artifact.precision != exported.precision


def test_the_catalog_calls_them_exact() -> None:
    for name in REWRITES:
        marks = registry.entry("stages", name).marks
        assert marks == {"accepts": "torch", "produces": "torch", "technique": "closed_like"}
