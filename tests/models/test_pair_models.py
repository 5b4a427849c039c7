"""Models of two ids: scores by hand, other fields don't matter, data without the ids is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.errors import UnsupportedError
from harness.models import mf, neumf, two_embedding
from harness.modules import model_inputs
from harness.tables import Prepared

BUILDS = {
    "mf": lambda schema: mf.build(schema, dim=4),
    "two_embedding": lambda schema: two_embedding.build(schema, dim=4, widths=(8,)),
    "neumf": lambda schema: neumf.build(schema, dim=4, mlp_dim=3, widths=(8, 5)),
}
USER = torch.tensor([[3], [7]])
CANDIDATES = torch.tensor([[[2, 1], [5, 0], [9, 4]], [[2, 0], [1, 1], [9, 4]]])
"""Two requests of three candidates: product and brand."""


@pytest.fixture(params=BUILDS)
def module(request, tiny: Prepared) -> torch.nn.Module:
    torch.manual_seed(0)
    return BUILDS[request.param](tiny.schema).eval()


def test_they_take_the_ids_alone(module, tiny: Prepared) -> None:
    assert [spec.name for spec in model_inputs(module, tiny.schema)] == ["user", "candidates"]
    other = CANDIDATES.clone()
    other[..., 1] = 0  # another brand
    with torch.no_grad():
        scores = module(USER, CANDIDATES)
        assert scores.shape == (2, 3)
        assert torch.equal(scores, module(USER, other))
        assert len(np.unique(scores.numpy())) == 6


def test_matrix_factorisation_by_hand(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = mf.build(tiny.schema, dim=4).eval()
    with torch.no_grad():
        module.constant.fill_(3.5)
        module.user_bias.weight[3] = 0.25
        module.item_bias.weight[5] = -0.5
        dot = module.users.weight[3] @ module.items.weight[5]
        assert module(USER, CANDIDATES)[0, 1].item() == pytest.approx(3.25 + dot.item(), abs=1e-6)


def test_untrained_biases_are_zero_and_factors_as_spread_as_asked(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = mf.build(tiny.schema, dim=64, spread=0.5)
    assert not module.user_bias.weight.any()
    assert module.users.weight.std().item() == pytest.approx(0.5, rel=0.05)  # 41 x 64 of them


def test_two_embeddings_by_hand(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = two_embedding.build(tiny.schema, dim=4, widths=(8,)).eval()
    with torch.no_grad():
        pair = torch.cat([module.users.weight[7], module.items.weight[9]])
        expected = module.top(pair).item()
        assert module(USER, CANDIDATES)[1, 2].item() == pytest.approx(expected, abs=1e-6)


def test_two_embeddings_are_as_spread_as_asked(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = two_embedding.build(tiny.schema, dim=64, widths=(8,), spread=0.5)
    for embedding in (module.users, module.items):  # 41 x 64 and 31 x 64 of them
        assert embedding.weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_neumf_by_hand(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = neumf.build(tiny.schema, dim=4, mlp_dim=3, widths=(8, 5)).eval()
    with torch.no_grad():
        product = module.users.weight[7] * module.items.weight[9]
        hidden = module.mlp(torch.cat([module.mlp_users.weight[7], module.mlp_items.weight[9]]))
        expected = module.top(torch.cat([product, hidden])).item()
        assert module(USER, CANDIDATES)[1, 2].item() == pytest.approx(expected, abs=1e-6)


def test_data_without_an_id_is_refused(tiny: Prepared) -> None:
    fields = tuple(field for field in tiny.schema.fields if field.name != tiny.schema.item)
    with pytest.raises(UnsupportedError, match=f"no categorical {tiny.schema.item!r}"):
        mf.build(replace(tiny.schema, fields=fields))


def test_neumf_without_an_mlp_is_refused(tiny: Prepared) -> None:
    with pytest.raises(ValueError, match="widths is empty"):
        neumf.build(tiny.schema, widths=())
