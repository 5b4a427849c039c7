from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.models.mlp import build
from harness.modules import model_inputs
from harness.objectives import predict
from harness.tables import feeds


@pytest.fixture
def mlp(tiny):
    torch.manual_seed(0)
    return build(tiny.schema, dim=4, widths=(16, 8)).eval()


def batch(tiny, module, rows):
    arrays = feeds(tiny.schema, tiny.splits["test"], rows, model_inputs(module, tiny.schema))
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def test_score_by_hand(mlp, tiny):
    inputs = batch(tiny, mlp, np.array([[9]]))
    household, weekday, product, brand = mlp.inputs.tables
    features = torch.cat(
        [
            household.weight[inputs["user"][0, 0]],
            weekday.weight[inputs["context"][0, 0]],
            product.weight[inputs["candidates"][0, 0, 0]],
            brand.weight[inputs["candidates"][0, 0, 1]],
            inputs["user_values"][0],
            inputs["candidate_values"][0, 0],
        ]
    )
    assert features.shape == (4 * 4 + 2,)
    assert mlp(**inputs).item() == pytest.approx(mlp.top(features).item(), abs=1e-6)


def test_a_request_scores_like_its_rows_alone(mlp, tiny):
    split = tiny.splits["test"]
    alone = predict(mlp, tiny, split, model_inputs(mlp, tiny.schema))
    rows = np.arange(split.offsets[5], split.offsets[6])[None]
    with torch.no_grad():
        together = mlp(**batch(tiny, mlp, rows))
    np.testing.assert_allclose(together[0].numpy(), alone[rows[0]], atol=1e-5)


def test_works_without_numbers_and_without_context(tiny):
    fields = tuple(f for f in tiny.schema.fields if f.kind == "categorical" and f.role != "context")
    module = build(replace(tiny.schema, fields=fields), dim=4, widths=(8,))
    assert module.top[0].in_features == 12
    out = module(torch.ones(2, 1, dtype=torch.long), torch.ones(2, 3, 2, dtype=torch.long))
    assert out.shape == (2, 3)
