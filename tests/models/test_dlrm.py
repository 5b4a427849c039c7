from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import registry
from harness.errors import UnsupportedError
from harness.models.dlrm import build
from harness.modules import count_macs, model_inputs
from harness.objectives import predict
from harness.schema import FeatureSchema, Field
from harness.tables import feeds


@pytest.fixture
def dlrm(tiny):
    torch.manual_seed(0)
    return build(tiny.schema, dim=8, bottom=(16,), top=(32, 16)).eval()


def request_inputs(tiny, request):
    split = tiny.splits["test"]
    rows = np.arange(split.offsets[request], split.offsets[request + 1])[None]
    return split, rows


def batch(tiny, module, rows):
    arrays = feeds(tiny.schema, tiny.splits["test"], rows, model_inputs(module, tiny.schema))
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def test_score_by_hand(dlrm, tiny):
    inputs = batch(tiny, dlrm, np.array([[4]]))
    household, weekday, product, brand = dlrm.inputs.tables
    vectors = [
        dlrm.bottom(torch.cat([inputs["user_values"][0], inputs["candidate_values"][0, 0]])),
        household.weight[inputs["user"][0, 0]],
        weekday.weight[inputs["context"][0, 0]],
        product.weight[inputs["candidates"][0, 0, 0]],
        brand.weight[inputs["candidates"][0, 0, 1]],
    ]
    dots = [vectors[i] @ vectors[j] for i in range(5) for j in range(i)]
    expected = dlrm.top(torch.cat([vectors[0], torch.stack(dots)]))
    assert dlrm(**inputs).shape == (1, 1)
    assert dlrm(**inputs).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_request_scores_like_its_rows_alone(dlrm, tiny):
    split = tiny.splits["test"]
    alone = predict(dlrm, tiny, split, model_inputs(dlrm, tiny.schema))
    for request in (0, 7, 20):
        split, rows = request_inputs(tiny, request)
        with torch.no_grad():
            together = dlrm(**batch(tiny, dlrm, rows))
        assert together.shape == rows.shape
        np.testing.assert_allclose(together[0].numpy(), alone[rows[0]], atol=1e-5)


def test_order_of_candidates_does_not_matter(dlrm, tiny):
    _, rows = request_inputs(tiny, 3)
    with torch.no_grad():
        forward = dlrm(**batch(tiny, dlrm, rows))
        backward = dlrm(**batch(tiny, dlrm, rows[:, ::-1]))
    torch.testing.assert_close(forward.flip(1), backward)


def test_without_numbers_there_is_no_bottom(tiny):
    fields = tuple(f for f in tiny.schema.fields if f.kind == "categorical")
    schema = replace(tiny.schema, fields=fields)
    module = build(schema, dim=8, bottom=(16,), top=(32,))
    assert module.top[0].in_features == 6  # pairs of 4 vectors
    out = module(
        torch.ones(2, 1, dtype=torch.long),
        torch.ones(2, 3, 2, dtype=torch.long),
        torch.ones(2, 1, dtype=torch.long),
    )
    assert out.shape == (2, 3)


def test_every_field_and_number_matters(dlrm, tiny):
    inputs = batch(tiny, dlrm, np.array([[4]]))
    before = dlrm(**inputs).item()
    for name, value in inputs.items():
        for at in range(value.shape[-1]):
            changed = {**inputs, name: value.clone()}
            changed[name][..., at] += 1 if value[..., at].max() < 2 else -1
            assert dlrm(**changed).item() != before, f"{name}[{at}]"


def test_default_size_is_at_least_a_million_macs_with_20_fields():
    fields = [Field("u", "categorical", "user", 10), Field("price", "numeric", "item")]
    fields += [Field(f"i{n}", "categorical", "item", 10) for n in range(19)]
    schema = FeatureSchema(tuple(fields), "y", "u", "i0")
    module = build(schema)
    assert count_macs(module, model_inputs(module, schema)) > 1_000_000


def test_data_without_item_or_user_fields_is_refused(tiny):
    fields = tuple(f for f in tiny.schema.fields if f.role != "item")
    with pytest.raises(UnsupportedError, match="needs at least one categorical user and one item"):
        build(replace(tiny.schema, fields=fields))


@pytest.mark.parametrize("values", [{"dim": 0}, {"top": [64, 0]}, {"bottom": "64"}, {"dims": 8}])
def test_wrong_sizes_are_refused_by_name(values):
    with pytest.raises(registry.ValidationError) as caught:
        registry.bind("models", "dlrm", values)
    assert caught.value.errors()[0]["loc"][0] in values
