"""SASRec, GRU4Rec and matrix factorisation for next items."""

import numpy as np
import pytest
import torch
from made_lists import item_schema
from torch import nn

from harness import registry
from harness.errors import UnsupportedError
from harness.models import gru4rec, mf_ranking, sasrec
from harness.modules import count_macs, model_inputs

SEQUENTIAL = {
    "sasrec": lambda schema, **given: sasrec.build(schema, dim=8, heads=2, top=11, **given),
    "gru4rec": lambda schema, **given: gru4rec.build(schema, dim=8, hidden=6, top=11, **given),
}
PASTS = torch.tensor(
    [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 4], [1, 2, 3, 4, 5, 6], [0, 0, 9, 9, 1, 2]]
)


@pytest.fixture(params=SEQUENTIAL)
def module(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(2)
    found: nn.Module = SEQUENTIAL[request.param](item_schema(31))
    return found.eval()


def test_empty_short_and_full_histories_give_finite_lists(module: nn.Module) -> None:
    with torch.inference_mode():
        scores, items = module(history=PASTS, seen=PASTS)
    assert scores.shape == items.shape == (4, 11)
    assert torch.isfinite(scores).all()
    assert (items > 0).all()
    assert not (items[:, :, None] == PASTS[:, None, :]).any()


def test_a_position_is_told_from_what_came_before_it_alone(module: nn.Module) -> None:
    """In the padding before the first item too, which is trained to tell that item."""
    later = PASTS.clone()
    later[:, 4:] = torch.tensor([7, 8])
    with torch.inference_mode():
        one, other = module.states(PASTS)[:, :4], module.states(later)[:, :4]  # type: ignore[operator]
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_request_alone_gets_what_it_gets_in_a_batch(module: nn.Module) -> None:
    with torch.inference_mode():
        scores, items = module(history=PASTS, seen=PASTS)
        for at in range(len(PASTS)):
            alone = module(history=PASTS[at : at + 1], seen=PASTS[at : at + 1])
            torch.testing.assert_close(alone[0][0], scores[at], atol=1e-5, rtol=0)
            assert torch.equal(alone[1][0], items[at])


def test_the_last_position_alone_gives_the_same_with_less_work() -> None:
    schema = item_schema(31)
    whole = SEQUENTIAL["sasrec"](schema).eval()
    last = SEQUENTIAL["sasrec"](schema, positions="last").eval()
    last.load_state_dict(whole.state_dict())
    with torch.inference_mode():
        expected, found = whole(PASTS, PASTS), last(PASTS, PASTS)
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    assert torch.equal(found[1], expected[1])
    inputs = model_inputs(whole, schema)
    # Of the second block's 6 positions one is left for query, out, the MLP's two layers, and of
    # the scores and sums of values of all heads.
    saved = 5 * 4 * 8 * 8 + 2 * 5 * 6 * 8
    assert count_macs(whole, inputs) - count_macs(last, inputs) == saved


def test_multiplications_of_a_gru_are_counted() -> None:
    schema = item_schema(31)
    module = SEQUENTIAL["gru4rec"](schema)
    by_hand = 6 * (3 * 6 * (8 + 6) + 6 * 8) + 31 * 8
    assert count_macs(module, model_inputs(module, schema)) == by_hand


def test_one_table_looks_up_and_scores(module: nn.Module) -> None:
    names = [n for n, p in module.named_parameters() if p.shape[0] == 31]
    assert names == ["catalogue.vectors.weight"]
    assert module.catalogue.table[0].eq(0).all()  # type: ignore[union-attr, index]


def test_heads_divide_the_dim() -> None:
    with pytest.raises(UnsupportedError, match="sasrec: 3 heads don't divide dim 8"):
        sasrec.build(item_schema(31), dim=8, heads=3, top=11)


def test_factorisation_scores_by_the_product() -> None:
    schema = item_schema(31)
    module = mf_ranking.build(schema, dim=4, top=11).eval()
    with torch.inference_mode():
        scores, items = module(torch.tensor([[3], [0]]), torch.tensor([[5], [0]]))
    users, table = module.users.weight.detach(), module.catalogue.table.detach()
    for row, (user, hidden) in enumerate(((3, 5), (0, 0))):
        right = (table @ users[user]).numpy()
        right[[0, hidden]] = -np.inf
        assert items[row].tolist() == np.argsort(-right, kind="stable")[:11].tolist()
        np.testing.assert_allclose(scores[row], np.sort(right)[::-1][:11], rtol=1e-5)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "mf_ranking"])
def test_recipes_get_defaults(name: str) -> None:
    bound = registry.bind("models", name, {})
    assert bound["top"] == 50
    assert bound["chunk"] == 65_536
