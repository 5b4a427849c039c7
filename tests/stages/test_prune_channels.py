import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness import registry
from harness.artifact import ModelSpec, read_artifact
from harness.errors import EffectError
from harness.modules import load_module, model_inputs
from harness.objectives import predict
from harness.stages.channel_groups import find_groups, random_feeds
from harness.stages.prune_channels import _target, prune_channels


def scores(artifact, data, split="test"):
    return predict(load_module(artifact), data, data.splits[split], artifact.inputs)


def width_effects(outcome):
    return {
        effect.name.removeprefix("width:"): (effect.before, effect.after, effect.asked)
        for effect in outcome.effects
        if effect.name.startswith("width:")
    }


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize("steps", [1, 3])
def test_half_of_each_hidden_layer_goes_whatever_the_steps(
    tiny_artifact, make_context, importance, steps
):
    outcome = prune_channels(
        tiny_artifact, make_context(), ratio=0.5, importance=importance, steps=steps
    )
    assert outcome.artifact.widths == {
        "bottom.0": (8, 2),
        "bottom.2": (8, 8),  # its output joins the embeddings of dim 8
        "top.0": (16, 18),  # 8 numbers and 10 pairs of 5 vectors
        "top.2": (8, 16),
        "top.4": (1, 8),
    }
    assert width_effects(outcome) == {
        "bottom.0": (16, 8, 8),
        "top.0": (32, 16, 16),
        "top.2": (16, 8, 8),
    }
    # Weights and biases of the widths above, and 41 + 31 + 7 + 8 table rows of 8.
    linear = (2 * 8 + 8) + (8 * 8 + 8) + (18 * 16 + 16) + (16 * 8 + 8) + (8 + 1)
    parameters = next(e for e in outcome.effects if e.name == "parameters")
    assert parameters.after == outcome.artifact.parameters == linear + 87 * 8


def test_protected_layers_are_named_with_their_reasons(tiny_artifact, make_context):
    notes = "\n".join(prune_channels(tiny_artifact, make_context(), ratio=0.5).notes)
    assert "bottom.2 kept its width: its width is tied to the embedding table inputs." in notes
    assert "top.4 kept its width: it gives the model's output" in notes


def test_flat_user_model_and_mlp_are_pruned(rec_artifact, mlp_artifact, make_context, tiny):
    rec = prune_channels(rec_artifact, make_context("r"), ratio=0.5).artifact
    assert rec.widths == {"f1": (8, 16), "f2": (8, 8), "out": (1, 8)}
    mlp = prune_channels(mlp_artifact, make_context("m"), ratio=0.5).artifact
    assert mlp.widths == {"top.0": (16, 34), "top.2": (8, 16), "top.4": (1, 8)}
    assert np.isfinite(scores(rec, tiny)).all()
    assert np.isfinite(scores(mlp, tiny)).all()


def test_dead_channels_are_the_ones_that_go(save_artifact, rec_artifact, make_context, tiny):
    module = load_module(rec_artifact)
    dead = [1, 4, 5, 15]
    with torch.no_grad():
        for before, after in ((module.f1, module.f2), (module.f2, module.out)):
            before.weight[dead] = 0.0
            before.bias[dead] = 0.0
            after.weight[:, dead] = 0.0
    artifact = save_artifact(rec_artifact.model, name="dead", module=module)
    expected = scores(artifact, tiny)
    for importance in ("magnitude", "taylor"):
        context = make_context(importance)
        pruned = prune_channels(artifact, context, ratio=0.25, importance=importance).artifact
        assert pruned.widths["f1"] == (12, 16)
        np.testing.assert_allclose(scores(pruned, tiny), expected, atol=1e-6)


def test_taylor_keeps_what_the_loss_needs_where_magnitude_does_not(
    save_artifact, rec_artifact, make_context, tiny
):
    module = load_module(rec_artifact)
    loud = [0, 1, 2, 3]
    with torch.no_grad():
        module.f2.weight[loud] = 50.0
        module.f2.bias[loud] = -1e6  # never active: large weights that no row ever uses
    artifact = save_artifact(rec_artifact.model, name="loud", module=module)
    expected = scores(artifact, tiny)
    asked = {"ratio": 0.25, "layers": ("f2",)}
    taylor = prune_channels(artifact, make_context("t"), importance="taylor", **asked).artifact
    magnitude = prune_channels(artifact, make_context("m"), **asked).artifact
    np.testing.assert_allclose(scores(taylor, tiny), expected, atol=1e-6)
    assert np.abs(scores(magnitude, tiny) - expected).max() > 1e-3


def test_ratio_0_changes_nothing_and_says_so(tiny_artifact, make_context, tiny):
    outcome = prune_channels(tiny_artifact, make_context(), ratio=0.0)
    assert np.abs(scores(outcome.artifact, tiny) - scores(tiny_artifact, tiny)).max() == 0
    assert outcome.notes == ("ratio 0: nothing asked, nothing removed",)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, "50%", True, float("nan")])
def test_ratios_that_are_none_are_refused(ratio):
    with pytest.raises(registry.ValidationError) as caught:
        registry.bind("stages", "prune_channels", {"ratio": ratio})
    assert caught.value.errors()[0]["loc"] == ("ratio",)


def test_ratio_99_cuts_to_one_channel_and_shows_it(rec_artifact, make_context):
    outcome = prune_channels(rec_artifact, make_context(), ratio=0.99)
    assert outcome.artifact.widths == {"f1": (1, 16), "f2": (1, 1), "out": (1, 1)}
    assert "f1, f2 cut to the smallest width, 1" in outcome.notes
    before, after, asked = width_effects(outcome)["f1"]
    assert (before, after) == (16, 1)
    assert asked == pytest.approx(0.16)


def test_nothing_to_remove_is_an_error(rec_artifact, make_context):
    with pytest.raises(EffectError, match=r"nothing removed, asked for 5%.*f1 stayed 16"):
        prune_channels(rec_artifact, make_context(), ratio=0.05, round_to=8)


def test_rounding_far_from_what_was_asked_is_an_error(rec_artifact, make_context):
    message = r"f1: asked to remove 30% of its channels, 50% went \(16 -> 8, asked 11.2\)"
    with pytest.raises(EffectError, match=message):
        prune_channels(rec_artifact, make_context("a"), ratio=0.3, round_to=8)
    wide = prune_channels(rec_artifact, make_context("b"), ratio=0.3, round_to=8, tolerance=0.25)
    assert width_effects(wide)["f1"] == (16, 8, pytest.approx(11.2))


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "expected"),
    [
        (16, 0.5, 1, 8),
        (16, 0.99, 1, 1),
        (16, 0.05, 1, 15),
        (16, 0.01, 1, 16),
        (1024, 0.3, 16, 720),  # 716.8 of 704, 720
        (24, 0.5, 8, 8),  # a tie between 8 and 16 goes down
        (640, 0.99, 16, 16),
        (12, 0.5, 16, 12),  # narrower than the multiple: left alone
        (30, 0.1, 1, 27),  # 27.000000000000004 in floats
    ],
)
def test_target_widths(width, ratio, round_to, expected):
    assert _target(width, ratio, round_to) == expected


@given(st.integers(1, 300), st.floats(0, 0.999), st.integers(1, 64))
def test_targets_are_near_whole_multiples_and_never_0(width, ratio, round_to):
    target = _target(width, ratio, round_to)
    assert 1 <= target <= width
    assert target % round_to == 0 or target == width
    wanted = width * (1 - ratio)
    # Rounded to the nearest, unless the smallest multiple or the width itself is in the way.
    assert abs(target - wanted) <= round_to / 2 + 1e-6 or target in (min(round_to, width), width)


@pytest.mark.parametrize("cap", ["max_pruning_ratio", "max_ratio", "cap"])
def test_a_cap_that_it_does_not_have_is_refused(cap):
    with pytest.raises(registry.ValidationError) as caught:
        registry.bind("stages", "prune_channels", {"ratio": 0.5, cap: 0.3})
    assert caught.value.errors()[0]["loc"] == (cap,)
    assert caught.value.errors()[0]["type"] == "extra_forbidden"


PARTS_SOURCE = '''"""Experts under a gate, a recurrent layer, a bag of embeddings and a tower."""

import torch
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items, meets="joined"):
        super().__init__()
        self.meets = meets
        self.bag = nn.EmbeddingBag(n_users, 8, mode="sum")
        self.item = nn.Embedding(n_items, 8)
        self.experts = nn.ModuleList(nn.Linear(8, 12) for _ in range(3))
        self.gate = nn.Linear(8, 3)
        self.recurrent = nn.GRU(12, 6, batch_first=True)
        self.side = nn.Linear(6, 8)
        self.tower, self.out = nn.Linear(16, 12), nn.Linear(12, 1)

    def forward(self, user, item):
        users, items = self.bag(user.unsqueeze(1)), self.item(item)
        shares = torch.softmax(self.gate(items), dim=-1)
        each = torch.stack([torch.relu(expert(items)) for expert in self.experts], dim=1)
        mixed = (shares.unsqueeze(2) * each).sum(1)
        states, _ = self.recurrent(mixed.unsqueeze(1))
        side = self.side(states[:, -1])
        if self.meets == "dot":
            return (users * side).sum(1)
        left = users + side if self.meets == "summed" else users
        return self.out(torch.relu(self.tower(torch.cat([left, side], 1)))).squeeze(1)
'''


@pytest.mark.parametrize("meets", ["joined", "summed", "dot"])
def test_gates_recurrent_layers_bags_and_towers_that_meet_keep_their_widths(
    save_artifact, make_context, tiny, meets
):
    parameters = {"meets": meets}
    spec = ModelSpec(
        "file", {"path": "model.py", "attribute": "Rec", "parameters": parameters}, "model.py"
    )
    artifact = save_artifact(spec, name="parts", source=PARTS_SOURCE)
    if meets == "dot":
        message = (
            r"no layer can be pruned: .*recurrent: it is a GRU.*; tower: no score depends on it"
        )
        with pytest.raises(EffectError, match=message):
            prune_channels(artifact, make_context(), ratio=0.5)
        return
    outcome = prune_channels(artifact, make_context(), ratio=0.5)
    widths = outcome.artifact.widths
    assert widths["gate"] == (3, 8)
    assert [widths[f"experts.{at}"] for at in range(3)] == [(12, 8)] * 3
    assert widths["tower"] == (6, 16 if meets == "summed" else widths["side"][0] + 8)
    module = load_module(outcome.artifact)
    assert module.bag.embedding_dim == module.bag.weight.shape[1] == 8
    assert module.recurrent.input_size == 12
    told = "\n".join(outcome.notes)
    assert "recurrent kept its width: it is a GRU, only Linear is pruned" in told
    if meets == "summed":
        assert widths["side"] == (8, 6)
        assert "side kept its width: " in told
    assert np.isfinite(scores(outcome.artifact, tiny)).all()


def test_ignore_and_layers_choose_by_pattern(tiny_artifact, make_context):
    left_out = prune_channels(tiny_artifact, make_context("a"), ratio=0.5, ignore=("top.*",))
    assert set(width_effects(left_out)) == {"bottom.0"}
    assert "top.0 kept its width: left out by the recipe" in left_out.notes
    chosen = prune_channels(tiny_artifact, make_context("b"), ratio=0.5, layers=("top",))
    assert set(width_effects(chosen)) == {"top.0", "top.2"}


@pytest.mark.parametrize("parameter", ["ignore", "layers"])
def test_a_pattern_without_a_match_is_an_error(tiny_artifact, make_context, parameter):
    message = rf"{parameter}: pattern 'bottom\.1000' matches no layer; did you mean 'bottom\."
    with pytest.raises(EffectError, match=message):
        prune_channels(tiny_artifact, make_context(), ratio=0.5, **{parameter: ("bottom.1000",)})


def test_only_protected_layers_chosen_is_an_error(tiny_artifact, make_context):
    with pytest.raises(EffectError, match=r"no layer can be pruned: .*top\.4: it gives the model"):
        prune_channels(tiny_artifact, make_context(), ratio=0.5, layers=("top.4",))


def test_a_new_process_scores_the_pruned_folder(
    tiny_artifact, make_context, tiny, score_alone, file_hashes
):
    before = file_hashes(tiny_artifact.folder)
    pruned = prune_channels(tiny_artifact, make_context(), ratio=0.5, importance="taylor").artifact
    np.testing.assert_allclose(score_alone(pruned), scores(pruned, tiny), atol=1e-6)
    assert file_hashes(tiny_artifact.folder) == before
    told = json.loads((pruned.folder / "artifact.json").read_text())
    assert told["widths"]["top.0"] == [16, 18]
    assert read_artifact(pruned.folder) == pruned


def test_same_seed_gives_the_same_weights(tiny_artifact, make_context, file_hashes):
    one, two = (
        prune_channels(
            tiny_artifact, make_context(name), ratio=0.5, importance="taylor", taylor_rows=500
        ).artifact
        for name in ("one", "two")
    )
    assert file_hashes(one.folder) == file_hashes(two.folder)


class Mixture(nn.Module):
    """Three (or two) experts and a gate over them, and a tower with a norm."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.table = nn.Embedding(41, 8)
        self.experts = nn.ModuleList(nn.Linear(8, 12) for _ in range(experts))
        self.gate = nn.Linear(8, experts)
        self.inner = nn.Linear(12, 20)
        self.norm = nn.LayerNorm(20)
        self.out = nn.Linear(20, 1)

    def forward(self, user):
        x = self.table(user)
        shares = torch.softmax(self.gate(x), dim=-1)
        each = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)
        mixed = (shares.unsqueeze(2) * each).sum(1)
        return self.out(self.norm(torch.relu(self.inner(mixed)))).squeeze(1)


class Residual(nn.Module):
    """A block whose output is added to its input, between two plain layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(41, 8)
        self.start, self.inner = nn.Linear(8, 12), nn.Linear(12, 20)
        self.back, self.out = nn.Linear(20, 12), nn.Linear(12, 1)

    def forward(self, user):
        x = torch.relu(self.start(self.table(user)))
        return self.out(x + self.back(torch.relu(self.inner(x)))).squeeze(1)


class Twice(nn.Module):
    """Two layers whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(41, 8)
        self.left, self.right = nn.Linear(8, 12), nn.Linear(8, 12)
        self.out = nn.Linear(12, 1)

    def forward(self, user):
        x = self.table(user)
        return self.out(torch.relu(self.left(x) + self.right(x))).squeeze(1)


class TwoTower(nn.Module):
    """The score is a dot product: nothing reads the last layers' channels."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(41, 8), nn.Embedding(31, 8)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.c, self.d = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, user, item):
        left = self.b(torch.relu(self.a(self.users(user))))
        return (left * self.d(torch.relu(self.c(self.items(item))))).sum(1)


class FieldAxis(nn.Module):
    """A number becomes one more field vector beside the embeddings, then all are flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.number = nn.Embedding(41, 8), nn.Linear(2, 8)
        self.hidden, self.out = nn.Linear(16, 12), nn.Linear(12, 1)

    def forward(self, user, dense):
        fields = torch.stack([self.users(user), self.number(dense)], dim=1)
        return self.out(torch.relu(self.hidden(fields.flatten(1)))).squeeze(1)


def layout_of(module, tiny, frozen=()):
    inputs = model_inputs(module, tiny.schema)
    feeds = [random_feeds(inputs, tiny.schema, requests=r, candidates=4) for r in (2, 5)]
    return find_groups(module.eval(), feeds, frozen=set(frozen))


@pytest.mark.parametrize("experts", [2, 3])
def test_a_gate_over_experts_keeps_its_width(tiny, experts):
    torch.manual_seed(0)
    layout = layout_of(Mixture(experts), tiny)
    assert layout.groups == {"inner": ("inner",)}
    assert "gate" in layout.kept
    assert "which has another width (a gate?)" in layout.kept["gate"]


def test_layers_around_a_residual_sum_shrink_together(tiny):
    layout = layout_of(Residual(), tiny)
    assert {frozenset(group) for group in layout.groups.values()} == {
        frozenset({"start", "back"}),
        frozenset({"inner"}),
    }


def test_two_towers_keep_the_vectors_that_meet(tiny):
    layout = layout_of(TwoTower(), tiny)
    assert set(layout.groups) == {"a", "c"}
    assert set(layout.kept) == {"b", "d"}


def test_a_number_that_joins_the_fields_keeps_the_embedding_width(tiny):
    layout = layout_of(FieldAxis(), tiny)
    assert set(layout.groups) == {"hidden"}
    assert set(layout.kept) == {"number", "out"}


def test_layers_tied_to_an_ignored_one_keep_their_width(tiny):
    assert set(layout_of(Twice(), tiny).groups["left"]) == {"left", "right"}
    tied = layout_of(Twice(), tiny, frozen={"right"})
    assert tied.groups == {}
    assert tied.kept["left"] == "its width is tied to right, which the recipe leaves out"


def test_progress_is_told(tiny_artifact, make_context):
    told = []
    context = replace(make_context(), progress=lambda label, share: told.append((label, share)))
    prune_channels(tiny_artifact, context, ratio=0.5, steps=2)
    assert told == [("pruning step 1/2", 0.5), ("pruning step 2/2", 1.0)]
