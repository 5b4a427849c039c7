"""Weights clipped to zero: how many, which, tied ones once, said to be a mask, kept in training."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_lists import TIED, lists_context, save_lists
from onnx import numpy_helper
from torch import nn

from harness import registry
from harness.artifact import Artifact, Step, with_step
from harness.errors import EffectError
from harness.modules import load_module
from harness.stages.base import Context
from harness.stages.clip_weights import clip_weights
from harness.stages.export_onnx import export_onnx
from harness.stages.graphs import load_graph
from harness.stages.quantize_aware import quantize_aware
from harness.tables import Prepared


def facts(outcome) -> dict[str, tuple[float, float, float | None]]:
    return {e.name: (e.before, e.after, e.asked) for e in outcome.effects}


def weights(artifact: Artifact) -> dict[str, np.ndarray]:
    return {n: t.detach().numpy() for n, t in load_module(artifact).named_parameters()}


def test_the_smallest_of_each_matrix_go_and_the_file_stays_as_large(
    rec_artifact: Artifact, make_context: Callable[..., Context], file_hashes
) -> None:
    before, old = file_hashes(rec_artifact.folder), weights(rec_artifact)
    outcome = clip_weights(rec_artifact, make_context("c"), ratio=0.3)
    assert file_hashes(rec_artifact.folder) == before
    new, total = weights(outcome.artifact), 0
    for name, weight in old.items():
        if weight.ndim == 1:
            np.testing.assert_array_equal(new[name], weight)
            continue
        gone = round(0.3 * weight.size)
        order = np.argsort(np.abs(weight).ravel(), kind="stable")
        expected = weight.ravel().copy()
        expected[order[:gone]] = 0
        np.testing.assert_array_equal(new[name].ravel(), expected)
        total += gone
    found = facts(outcome)
    assert found["zero_weights"] == (0, total, total)
    assert found["parameters"][0] == found["parameters"][1]
    assert found["model_bytes"][0] == found["model_bytes"][1]
    assert outcome.notes[0].startswith(f"mask only: {total} zeros are stored as numbers (30.")
    assert "the file keeps its" in outcome.notes[0]


def test_all_matrices_together_or_those_of_a_pattern(
    rec_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    old = weights(rec_artifact)
    flat = np.sort(np.concatenate([np.abs(w).ravel() for w in old.values() if w.ndim > 1]))
    asked = round(0.5 * len(flat))
    everywhere = clip_weights(rec_artifact, make_context("a"), ratio=0.5, scope="global")
    new = weights(everywhere.artifact)
    assert facts(everywhere)["zero_weights"] == (0, asked, asked)
    for name, weight in old.items():
        if weight.ndim > 1:
            np.testing.assert_array_equal(new[name] == 0, np.abs(weight) <= flat[asked - 1])
    some = clip_weights(rec_artifact, make_context("b"), ratio=0.5, layers=("f*", "out.weight"))
    changed = {n for n, w in weights(some.artifact).items() if not np.array_equal(w, old[n])}
    assert changed == {"f1.weight", "f2.weight", "out.weight"}


def test_equal_magnitudes_go_in_order(
    rec_artifact: Artifact, make_context: Callable[..., Context], save_artifact
) -> None:
    module = load_module(rec_artifact)
    nn.init.constant_(module.get_parameter("out.weight"), -0.25)
    artifact = save_artifact(rec_artifact.model, name="flat", module=module)
    made = clip_weights(artifact, make_context("c"), ratio=0.25, layers=("out",)).artifact
    np.testing.assert_array_equal(weights(made)["out.weight"], [[0] * 4 + [-0.25] * 12])


@pytest.mark.parametrize("pattern", ["emb", "score.weight"])
def test_a_tied_table_is_one_by_either_name(
    pattern: str, tiny_sequences: Prepared, tmp_path
) -> None:
    artifact = save_lists(tiny_sequences, TIED, tmp_path / "tied")
    context = lists_context(tiny_sequences, artifact, tmp_path / "clipped")
    outcome = clip_weights(artifact, context, ratio=0.5, layers=(pattern,))
    padding = 8  # the row of no item is of zeros, which are the smallest
    assert facts(outcome)["zero_weights"] == (padding, 121 * 4, 121 * 4)
    module = load_module(outcome.artifact)
    tables = [p for n, p in module.named_parameters(remove_duplicate=False) if p.shape == (121, 8)]
    assert len(tables) == 2
    assert tables[0] is tables[1]


def test_what_would_do_nothing_or_everything_is_refused(
    rec_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(EffectError, match="ratio 0 would clip nothing"):
        clip_weights(rec_artifact, make_context("a"), ratio=0.0)
    with pytest.raises(EffectError, match="ratio 1 would clip every weight"):
        clip_weights(rec_artifact, make_context("b"), ratio=1.0)
    with pytest.raises(registry.ValidationError):
        registry.bind("stages", "clip_weights", {"ratio": 1.0})
    with pytest.raises(EffectError, match=r"pattern 'f1\.bias' matches no weight matrix; exp"):
        clip_weights(rec_artifact, make_context("c"), ratio=0.5, layers=("f1.bias",))
    once = clip_weights(rec_artifact, make_context("d"), ratio=0.5).artifact
    with pytest.raises(EffectError, match=r"no effect: .* are zero already; raise ratio"):
        clip_weights(once, make_context("e"), ratio=0.5)


def clipped(artifact: Artifact, context: Context) -> Artifact:
    """With the step in its lineage, as a run writes it."""
    outcome = clip_weights(artifact, context, ratio=0.5)
    step = Step("clip_weights", {"ratio": 0.5}, 0.0, 0.0, outcome.effects)
    return with_step(outcome.artifact, step)


@pytest.mark.parametrize("name", ["finetune", "distill"])
def test_training_keeps_the_zeros(
    name: str, tiny_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    """And without the step in the lineage it doesn't."""
    start = clipped(tiny_artifact, make_context("c"))
    apply, given = registry.resolve("stages", name), registry.bind("stages", name, {"epochs": 0.5})
    old = {name: weight for name, weight in weights(start).items() if weight.ndim > 1}
    held = weights(apply(start, make_context("t"), **given).artifact)
    free = weights(apply(replace(start, lineage=()), make_context("f"), **given).artifact)
    for name, weight in old.items():
        assert (held[name][weight == 0] == 0).all()
        assert (held[name] != weight).any()
    assert any((free[name][weight == 0] != 0).any() for name, weight in old.items())


def test_training_with_rounding_keeps_the_zeros(
    tiny_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    start = clipped(tiny_artifact, make_context("c"))
    made = quantize_aware(start, make_context("t"), epochs=0.5).artifact
    old, found = weights(start), 0
    for tensor in load_graph(made).graph.initializer:
        layer = tensor.name.removesuffix(".weight_codes")
        if tensor.name.endswith(".weight_codes"):
            codes, gone = numpy_helper.to_array(tensor), old[f"{layer}.weight"] == 0
            gone = gone if codes.shape == gone.shape else gone.T
            assert (codes[gone] == 0).all()
            assert (codes[~gone] != 0).any()
            found += 1
    assert found > 1


def test_a_clipped_model_is_exported_as_it_is(
    tiny_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    start = clipped(tiny_artifact, make_context("c"))
    made = export_onnx(start, make_context("e")).artifact
    zeros = sum((w == 0).sum() for w in weights(start).values() if w.ndim > 1)
    stored = [numpy_helper.to_array(t) for t in load_graph(made).graph.initializer]
    assert sum((w == 0).sum() for w in stored if w.ndim > 1) == zeros
