"""What next-item models are trained for: every loss by hand, the examples, and validation."""

import math

import numpy as np
import pytest
import torch
from made_lists import TRAINING
from torch import nn

from harness import next_items
from harness.errors import UnsupportedError
from harness.models import gru4rec, mf_ranking, sasrec
from harness.modules import model_inputs
from harness.next_items import LIST_LOSSES, NextItems, bpr, full_softmax, gbce, sampled_softmax
from harness.objectives import Training
from harness.tables import Prepared

# Three items and the row of none, in one dimension: scores of a query q are q, 2 q and -q.
TABLE = torch.tensor([[50.0], [1.0], [2.0], [-1.0]])
QUERIES = torch.tensor([[1.0], [2.0]])
ITEMS = torch.tensor([1, 3])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def draw(monkeypatch: pytest.MonkeyPatch, drawn: object) -> None:
    """Let the negatives be these."""
    monkeypatch.setattr(next_items, "_draw", lambda items, shape: torch.tensor(drawn))


def test_full_softmax_by_hand() -> None:
    first = math.log(math.exp(1) + math.exp(2) + math.exp(-1)) - 1
    second = math.log(math.exp(2) + math.exp(4) + math.exp(-2)) + 2
    assert full_softmax(QUERIES, ITEMS, TABLE, 0).item() == pytest.approx((first + second) / 2)


def test_full_softmax_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    queries, table = torch.randn(23, 4), torch.randn(30, 4)
    items = torch.randint(1, 30, (23,))

    def value_and_gradients() -> list[torch.Tensor]:
        inputs = [queries.clone().requires_grad_(), table.clone().requires_grad_()]
        loss = full_softmax(inputs[0], items, inputs[1], 0)
        return [loss, *torch.autograd.grad(loss, inputs)]

    whole = value_and_gradients()
    monkeypatch.setattr(next_items, "SCORES", 30 * 5)  # five positions at once, three at last
    torch.testing.assert_close(value_and_gradients(), whole)


def test_sampled_softmax_by_hand_leaves_out_the_item_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw(monkeypatch, [2, 3])
    first = math.log(math.exp(1) + math.exp(2) + math.exp(-1)) - 1
    second = math.log(math.exp(-2) + math.exp(4)) + 2  # item 3 is its own
    found = sampled_softmax(QUERIES, ITEMS, TABLE, 2).item()
    assert found == pytest.approx((first + second) / 2)


def test_gbce_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One negative of two: rate 1/2, beta = 1/2 (0.75 (1 - 2) + 2) = 0.625."""
    draw(monkeypatch, [3])
    first = -0.625 * math.log(sigmoid(1)) - math.log(1 - sigmoid(-1))
    second = -0.625 * math.log(sigmoid(-2))  # its own item was drawn
    assert gbce(QUERIES, ITEMS, TABLE, 1).item() == pytest.approx((first + second) / 2)


def test_gbce_of_all_negatives_is_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, [1, 2, 3, 3])
    first = -math.log(sigmoid(1)) - math.log(1 - sigmoid(2)) - 2 * math.log(1 - sigmoid(-1))
    assert gbce(QUERIES[:1], ITEMS[:1], TABLE, 4).item() == pytest.approx(first)


def test_bpr_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, [[2, 3], [1, 3]])
    parts = [sigmoid(1 - 2), sigmoid(1 + 1), sigmoid(-2 - 2)]  # the fourth is the item itself
    expected = -sum(map(math.log, parts)) / 4
    assert bpr(QUERIES, ITEMS, TABLE, 2).item() == pytest.approx(expected)


def test_negatives_are_real_items() -> None:
    torch.manual_seed(0)
    drawn = next_items._draw(5, (1000,))
    assert sorted(set(drawn.tolist())) == [1, 2, 3, 4]


def objective(
    module: nn.Module, data: Prepared, training: Training = TRAINING, seed: int = 1
) -> NextItems:
    return NextItems(module, data, model_inputs(module, data.schema), training, seed=seed)


def test_every_event_is_told_from_its_own_past(tiny_sequences: Prepared) -> None:
    """A sequential model's windows and single events hold the same pairs of a past and an item."""
    schema, split = tiny_sequences.schema, tiny_sequences.splits["train"]
    module = sasrec.build(schema, dim=8, top=11)
    found = objective(module, tiny_sequences)
    assert found.examples == split.requests
    lengths = np.diff(split.offsets)
    user = int(np.argmax(lengths))
    rows = np.arange(split.offsets[user], split.offsets[user + 1])
    events = split.arrays["candidates"][rows, 0].tolist()
    window = found._windows(np.array([user]))[0].tolist()
    size = schema.length + 1
    assert window == ([0] * size + events)[-size:]
    _, items = found.queries(module, np.array([user]))
    assert items.tolist() == events[-schema.length :]


def test_other_models_take_events_one_by_one(tiny_sequences: Prepared) -> None:
    module = mf_ranking.build(tiny_sequences.schema, dim=8, top=11)
    found = objective(module, tiny_sequences)
    split = tiny_sequences.splits["train"]
    assert found.examples == split.rows
    queries, items = found.queries(module, np.array([0, 7]))
    users = split.user_of_row[[0, 7]]
    torch.testing.assert_close(queries, module.users.weight[torch.from_numpy(users).long()])
    assert items.tolist() == split.arrays["candidates"][[0, 7], 0].tolist()


class Oracle(nn.Module):
    """Gives every request the same list."""

    def __init__(self, items: list[int]) -> None:
        super().__init__()
        self.items = items
        self.top = len(items)

    def forward(self, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.arange(self.top, 0, -1.0).expand(len(history), -1)
        return scores, torch.tensor(self.items).expand(len(history), -1)


def test_validation_is_one_less_ndcg_at_10(tiny_sequences: Prepared) -> None:
    module = Oracle(list(range(1, 12)))
    found = objective(module, tiny_sequences).validation(module)
    truth = tiny_sequences.splits["validation"].arrays["candidates"][:, 0]
    gains = [1 / math.log2(item + 1) if 1 <= item <= 10 else 0 for item in truth]
    assert found == pytest.approx(1 - np.mean(gains), abs=1e-6)


def test_an_item_never_seen_in_training_is_never_a_hit() -> None:
    assert next_items._gain(torch.tensor([[0, 3], [3, 0]]), torch.tensor([0, 3])) == 1.0


@pytest.mark.parametrize("loss", ["own", *LIST_LOSSES])
@pytest.mark.parametrize("build", [sasrec.build, gru4rec.build, mf_ranking.build])
def test_every_loss_trains_every_model(loss: str, build, tiny_sequences: Prepared) -> None:
    torch.manual_seed(3)
    module = build(tiny_sequences.schema, dim=8, top=11)
    training = Training(loss=loss, negatives=16)
    found = objective(module, tiny_sequences, training)
    value = found.loss(module, np.arange(20))
    assert math.isfinite(value.item())
    value.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)
    table = module.catalogue.vectors.weight
    assert table.grad[0].eq(0).all()  # the row of no item stays


def test_losses_that_can_not_be_are_refused(tiny_sequences: Prepared) -> None:
    module = sasrec.build(tiny_sequences.schema, dim=8, top=11)
    with pytest.raises(UnsupportedError, match="loss 'bprr' isn't known; expected one of full_s"):
        objective(module, tiny_sequences, Training(loss="bprr"))
    lists = Oracle(list(range(1, 12)))
    with pytest.raises(UnsupportedError, match="loss 'bpr' needs the items' vectors"):
        objective(lists, tiny_sequences, Training(loss="bpr"))
    with pytest.raises(UnsupportedError, match="Oracle gives lists only; to be trained it needs"):
        objective(lists, tiny_sequences).loss(lists, np.arange(3))
