"""A user's own module for next items: scores of all items made lists, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_lists import TIED, TIED_SOURCE, item_schema, save_lists

from harness.errors import DataError, UnsupportedError
from harness.models.file import build
from harness.modules import load_module, model_inputs, model_outputs
from harness.tables import Prepared

SOURCE = (
    TIED_SOURCE
    + """

class WithUser(Tied):
    def __init__(self, n_users, n_items, length):
        super().__init__(n_items)
        self.users, self.length = nn.Embedding(n_users, 8), length

    def forward(self, history, user):
        assert history.shape[1] == self.length
        return super().forward(history) + self.users(user[:, 0]) @ self.emb.weight.T


class Lists(Tied):
    top = 12

    def forward(self, history, seen):
        return super().forward(history)[:, 1:].topk(self.top)


class Narrow(Tied):
    def forward(self, history):
        return super().forward(history)[:, 1:]


class Failing(Tied):
    def forward(self, history):
        return super().forward(history) @ torch.ones(3, 3)


class Taken(Tied):
    def __init__(self, n_items):
        super().__init__(n_items)
        self.top = nn.Linear(8, 8)


class Seen(Tied):
    def forward(self, history, seen):
        return super().forward(history)


class Pair(Tied):
    def forward(self, user, item):
        return user + item


class ShortList(Lists):
    top = 5


class FloatIds(Lists):
    def forward(self, history):
        scores = Tied.forward(self, history)[:, :12]
        return scores, scores
"""
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    found = tmp_path / "own.py"
    found.write_text(SOURCE)
    return str(found)


def test_scores_of_all_items_become_lists(path: str) -> None:
    schema = item_schema(31)
    module = build(schema, path=path, attribute="Tied", top=20).eval()
    inputs = model_inputs(module, schema)
    assert [(spec.name, spec.shape) for spec in inputs] == [
        ("history", ("requests", 6)),
        ("seen", ("requests", "seen")),
    ]
    assert [spec.shape for spec in model_outputs(module, inputs)] == [("requests", 20)] * 2
    history = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 3, 4, 5]])
    seen = torch.tensor([[0, 0], [4, 5]])
    with torch.inference_mode():
        all_scores = module.scores(history=history).numpy()
        _, items = module(history=history, seen=seen)
    assert all_scores.shape == (2, 31)
    for row, hidden in enumerate(([0], [0, 4, 5])):
        right = all_scores[row].copy()
        right[hidden] = -np.inf
        assert items[row].tolist() == np.argsort(-right, kind="stable")[:20].tolist()
    assert list(module.state_dict()) == ["emb.weight", "mix.weight", "mix.bias", "score.weight"]


def test_inputs_are_the_modules_own(path: str) -> None:
    schema = item_schema(31)
    module = build(schema, path=path, attribute="WithUser", top=11).eval()
    assert [spec.name for spec in model_inputs(module, schema)] == ["history", "seen", "user"]
    history, user = torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 1, dtype=torch.int64)
    assert module(history=history, user=user)[1].shape == (2, 11)


def test_a_module_that_gives_lists_stays_as_it_is(path: str) -> None:
    module = build(item_schema(31), path=path, attribute="Lists")
    assert type(module).__name__ == "Lists"
    assert not hasattr(module, "scores")
    with pytest.raises(UnsupportedError, match="top 20, but the module gives 12 itself"):
        build(item_schema(31), path=path, attribute="Lists", top=20)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Narrow", r"Narrow: for 2 requests forward gave .*\(2, 30\), expected scores \(2, 31\)"),
        ("Failing", "Failing: forward fails on two histories of padding: mat1 and mat2"),
        ("Taken", "Taken has a 'top' of its own, which means something else here; rename it"),
        ("Seen", "Seen: forward takes 'seen', which is left out of its lists anyway"),
        ("FloatIds", r"gave torch.float32 \(2, 12\) and .*, expected scores and item ids, \(2, 12"),
    ],
)
def test_mistakes_are_named(path: str, attribute: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(
            item_schema(31),
            path=path,
            attribute=attribute,
            top=None if attribute == "FloatIds" else 20,
        )


@pytest.mark.parametrize(
    ("attribute", "top", "message"),
    [
        ("Tied", 10, "top 10: a list has at least 11 places"),
        ("Tied", None, "top 50: the catalogue has 30 items"),
        ("ShortList", None, "top 5: a list has at least 11 places"),
        ("Pair", 20, "a next-item model takes history, seen, .*; this one takes user, item"),
    ],
)
def test_lists_that_can_not_be(path: str, attribute: str, top: int | None, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        build(item_schema(31), path=path, attribute=attribute, top=top)


def test_top_is_for_next_items(tiny: Prepared, path: str) -> None:
    with pytest.raises(UnsupportedError, match="top 20 is for next items; the task is click"):
        build(tiny.schema, path=path, attribute="Tied", top=20)


def test_the_two_sides_are_tied_after_loading(tiny_sequences: Prepared, tmp_path: Path) -> None:
    artifact = save_lists(tiny_sequences, TIED, tmp_path / "tied")
    items = tiny_sequences.schema.field("item").cardinality
    assert artifact.parameters == items * 8 + 8 * 8 + 8  # the table once
    module = load_module(artifact)
    assert module.score.weight.data_ptr() == module.emb.weight.data_ptr()  # type: ignore[union-attr]
