"""The best items of a catalogue: ties, masks, chunks, short lists, and memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_lists import item_schema

from harness.errors import UnsupportedError
from harness.models.catalogue import MASKED, Catalogue, best, recommend
from harness.stages.graphs import NOTHING_LEFT


def catalogue(vectors: list[float], *, top: int = 11, chunk: int = 65_536) -> Catalogue:
    """Items with vectors of one number each; the first is the row of no item."""
    found = Catalogue(item_schema(len(vectors)), dim=1, top=top, chunk=chunk)
    with torch.no_grad():
        found.vectors.weight.copy_(torch.tensor(vectors)[:, None])
    return found.eval()


def expected(scores: np.ndarray, hidden: set[int], top: int) -> list[int]:
    """Best first, equal ones by id, then zeros."""
    left = [i for i in range(1, len(scores)) if i not in hidden]
    ranked = sorted(left, key=lambda i: (-scores[i], i))[:top]
    return ranked + [0] * (top - len(ranked))


def test_scores_and_items_by_hand() -> None:
    vectors = [9.0, *(float(i) for i in range(1, 13)), 3.5]
    seen = torch.tensor([[0, 0], [12, 4]])
    scores, items = catalogue(vectors)(torch.tensor([[2.0], [1.0]]), seen)
    assert items.tolist() == [
        [12, 11, 10, 9, 8, 7, 6, 5, 4, 13, 3],
        [11, 10, 9, 8, 7, 6, 5, 13, 3, 2, 1],
    ]
    assert scores[0].tolist() == [24, 22, 20, 18, 16, 14, 12, 10, 8, 7, 6]
    assert scores[1].tolist() == [11, 10, 9, 8, 7, 6, 5, 3.5, 3, 2, 1]


def test_the_row_of_no_item_is_never_recommended_however_good_its_vector() -> None:
    _, items = catalogue([100.0, *[1.0] * 12])(torch.ones(2, 1), None)
    assert items.tolist() == [list(range(1, 12))] * 2


def test_who_has_seen_nearly_all_gets_a_short_list() -> None:
    seen = torch.tensor([list(range(1, 11)), list(range(3, 13))])
    scores, items = catalogue([0.0, *map(float, range(1, 13))])(torch.ones(2, 1), seen)
    assert items.tolist() == [[12, 11] + [0] * 9, [2, 1] + [0] * 9]
    assert scores[:, 2:].eq(MASKED).all()
    everything = torch.arange(13)[None]
    scores, items = catalogue([1.0] * 13)(torch.ones(1, 1), everything)
    assert items.eq(0).all()
    assert torch.isfinite(scores).all()


@given(
    scores=st.lists(st.integers(-2, 2), min_size=13, max_size=40),
    chunk=st.integers(1, 45),
    hidden=st.sets(st.integers(1, 40), max_size=30),
)
def test_the_chunk_never_changes_a_list(scores: list[int], chunk: int, hidden: set[int]) -> None:
    vectors = [float(score) for score in scores]
    hidden = {item for item in hidden if item < len(scores)}
    seen = torch.tensor([[0, *sorted(hidden)], [0] * (len(hidden) + 1)])
    _, items = catalogue(vectors, chunk=chunk)(torch.ones(2, 1), seen)
    assert items[0].tolist() == expected(np.array(vectors), hidden, 11)
    assert items[1].tolist() == expected(np.array(vectors), set(), 11)


def test_equal_scores_stand_by_id_inside_a_list_too() -> None:
    """Ties that torch's topk would scatter: many of them, above and at the last place."""
    random = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 4, (50, 3000), generator=random).float()
    found, places = best(scores, 1200)
    right = np.stack([np.lexsort((np.arange(3000), -row))[:1200] for row in scores.numpy()])
    np.testing.assert_array_equal(places.numpy(), right)
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(scores.numpy(), right, 1))


def test_scores_of_a_model_of_its_own_are_ranked_alike() -> None:
    scores = torch.tensor([[9.0, *map(float, range(12))]])
    _, items = recommend(scores, torch.tensor([[12, 0]]), top=11)
    assert items.tolist() == [[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]


def test_a_score_that_is_no_number_is_no_recommendation() -> None:
    scores = torch.tensor([[0.0, float("nan"), *map(float, range(11))]])
    _, items = recommend(scores, None, top=11)
    assert 1 not in items[0].tolist()


@pytest.mark.parametrize(
    ("top", "message"),
    [(10, "top 10: a list has at least 11 places"), (31, "top 31: the catalogue has 30 items")],
)
def test_a_list_that_can_not_be(top: int, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Catalogue(item_schema(31), dim=2, top=top)


def test_stages_know_the_score_of_an_empty_place() -> None:
    assert NOTHING_LEFT == MASKED


RANK_ALL = """
import sys
import torch
from made_lists import item_schema
from harness.models.mf_ranking import build
from harness.suites.worker import peak_bytes

torch.set_num_threads(1)
users, items, batch = 60_001, 120_001, 32
module = build(item_schema(items, users=users), dim=16, top=11).eval()


def rank(batches):
    with torch.inference_mode():
        for first in range(1, batches * batch, batch):
            user = torch.arange(first, first + batch)[:, None]
            seen = torch.arange(first, first + batch * 5).reshape(batch, 5)
            _, found = module(user=user, seen=seen)
            assert found.shape == (batch, 11) and (found > 0).all()
            assert not (found[:, :, None] == seen[:, None, :]).any()
    return peak_bytes() >> 20


print(rank(2), rank(10))
"""


def test_memory_is_that_of_a_batch_whatever_the_number_of_requests() -> None:
    """60,000 users of a catalogue of 120,000 would be 28.8 GB of scores."""
    tests = Path(__file__).parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tests)!r}){RANK_ALL}"],
        capture_output=True,
        text=True,
        cwd=tests.parent,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    few, many = map(int, ran.stdout.split())  # MiB
    assert many < 2048
    assert many - few < 64
