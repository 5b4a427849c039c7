"""Forms of a model: the same scores, worked out otherwise."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_forms import both_forms, form_feeds, in_form, largest_gap, made_schema

from harness.artifact import ModelSpec
from harness.errors import UnsupportedError
from harness.modules import build_module
from harness.schema import FeatureSchema

MLP = ModelSpec("mlp", {"dim": 4, "widths": [16, 8]})
DLRM = ModelSpec("dlrm", {"dim": 4, "bottom": [8], "top": [16, 8]})
PAIR = ModelSpec("two_embedding", {"dim": 4, "widths": [16, 8], "spread": 1.0})
EXACT = 1e-6

schemas = st.builds(
    made_schema,
    users=st.integers(1, 3),
    items=st.integers(1, 3),
    contexts=st.integers(0, 2),
    numbers=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
)


def categorical(schema: FeatureSchema) -> list[str]:
    return [field.name for field in schema.fields if field.kind == "categorical"]


@settings(max_examples=40)
@given(schema=schemas, fused=st.booleans(), data=st.data())
def test_an_mlp_scores_the_same_in_any_form(
    schema: FeatureSchema, fused: bool, data: st.DataObject
) -> None:
    folded = data.draw(st.lists(st.sampled_from(categorical(schema)), unique=True))
    changes = {"shared": True, "folded": folded, "fused": fused}
    before, after = both_forms(schema, MLP, changes)
    assert largest_gap(before, after, schema) < EXACT


@settings(max_examples=40)
@given(schema=schemas, shared=st.booleans(), fused=st.booleans())
def test_a_dlrm_scores_the_same_in_any_form(
    schema: FeatureSchema, shared: bool, fused: bool
) -> None:
    before, after = both_forms(schema, DLRM, {"shared": shared, "fused": fused})
    assert largest_gap(before, after, schema) < EXACT


@pytest.mark.parametrize("folded", [[], ["user0"], ["item1"], ["item1", "user0"]])
def test_two_embeddings_score_the_same_in_any_form(folded: list[str]) -> None:
    """The item isn't the first of its fields: its place is looked up, not assumed."""
    made = made_schema(users=2, items=2, contexts=1, numbers=(1, 1, 1))
    schema = FeatureSchema(made.fields, "label", "user0", "item1")
    before, after = both_forms(schema, PAIR, {"shared": True, "folded": folded})
    assert largest_gap(before, after, schema) < EXACT


@pytest.mark.parametrize("name", ["fm", "deepfm", "dcn_v2"])
def test_fused_tables_look_up_the_same_rows(name: str) -> None:
    schema = made_schema(users=2, items=3, contexts=2, numbers=(1, 0, 1))
    before, after = both_forms(schema, ModelSpec(name, {"dim": 4}), {"fused": True})
    assert largest_gap(before, after, schema) == 0.0


@pytest.mark.parametrize(
    "steps",
    [
        [{"shared": True}, {"folded": ["item0"]}, {"folded": ["item0", "user0"]}, {"fused": True}],
        [{"fused": True}, {"folded": ["context0"]}, {"folded": ["context0", "item1", "user1"]}],
        [{"folded": ["item0", "item1", "user0", "user1", "context0"]}, {"fused": True}],
    ],
)
def test_forms_follow_each_other(steps: list[Mapping[str, Any]]) -> None:
    schema = made_schema(users=2, items=2, contexts=1)
    before, module = both_forms(schema, MLP, {})
    parameters = dict(MLP.parameters)
    for step in steps:
        parameters |= step
        module = in_form(module, schema, ModelSpec("mlp", parameters))
        assert largest_gap(before, module, schema) < EXACT


def test_with_all_tables_folded_the_bias_is_in_one_of_them() -> None:
    schema = made_schema()
    before, after = both_forms(schema, PAIR, {"folded": ["user0", "item0"]})
    state = after.state_dict()
    assert sorted(name for name in state if not name.startswith("top.")) == [
        "first.own.tables.0.weight",
        "first.request.tables.0.weight",
    ]
    layer = before.top[0]
    expected = before.users.weight @ layer.weight[:, :4].T + layer.bias
    torch.testing.assert_close(state["first.request.tables.0.weight"], expected)


@pytest.mark.parametrize("spec", [MLP, DLRM, PAIR])
def test_a_tower_without_hidden_layers_is_split_too(spec: ModelSpec) -> None:
    key = "top" if spec.name == "dlrm" else "widths"
    bare = ModelSpec(spec.name, {**spec.parameters, key: []})
    schema = made_schema(users=2, items=2, numbers=(1, 0, 1))
    before, after = both_forms(schema, bare, {"shared": True})
    assert largest_gap(before, after, schema) < EXACT
    with torch.no_grad():
        after.output_bias.add_(1.0)
        feeds = form_feeds(before, schema, (2, 3))
        torch.testing.assert_close(after(**feeds), before(**feeds) + 1.0)


@pytest.mark.parametrize("spec", [MLP, DLRM, PAIR])
def test_every_score_starts_from_the_output_bias(spec: ModelSpec) -> None:
    schema = made_schema(users=2, items=2)
    before, after = both_forms(schema, spec, {"shared": True})
    torch.testing.assert_close(after.output_bias, before.output_bias)


def test_the_bottom_is_shared_where_only_requests_have_numbers() -> None:
    shared = build_module(
        ModelSpec("dlrm", {**DLRM.parameters, "shared": True}),
        made_schema(users=2, items=2, numbers=(2, 1, 0)),
        folder=None,
        seed=0,
    )
    mixed = build_module(
        ModelSpec("dlrm", {**DLRM.parameters, "shared": True}),
        made_schema(users=2, items=2, numbers=(2, 1, 1)),
        folder=None,
        seed=0,
    )
    # bottom 4 + 3 pairs of 3 vectors; 2 x 3 pairs across + 1 of the items
    assert shared.first.request.linear.in_features == 4 + 3
    assert shared.first.own.linear.in_features == 2 * 3 + 1
    # 1 pair of the users; bottom 4 + 3 x 2 pairs across + 3 of bottom and items
    assert mixed.first.request.linear.in_features == 1
    assert mixed.first.own.linear.in_features == 4 + 3 * 2 + 3


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (MLP, "folded: the data has no categorical field 'itme0'; did you mean 'item0'"),
        (PAIR, "two_embedding: folded: it has no table of 'itme0'; did you mean 'item0'"),
    ],
)
def test_unknown_fields_are_refused_by_name(spec: ModelSpec, said: str) -> None:
    wrong = ModelSpec(spec.name, {**spec.parameters, "folded": ["itme0"]})
    with pytest.raises(UnsupportedError, match=said):
        build_module(wrong, made_schema(), folder=None, seed=0)


@pytest.mark.parametrize("spec", [MLP, PAIR])
def test_folding_needs_a_hidden_layer(spec: ModelSpec) -> None:
    bare = ModelSpec(spec.name, {**spec.parameters, "widths": [], "folded": ["item0"]})
    with pytest.raises(UnsupportedError, match="folded needs a hidden layer, and widths is empty"):
        build_module(bare, made_schema(), folder=None, seed=0)
