"""Every metric of the catalog: laws that hold whatever it measures."""

import numpy as np
import pytest

from harness import registry
from harness.metrics.base import Record

ROWS = 1200
"""20 candidates a request: more than the cut of any ranking metric."""


def record(seed: int = 0, rows: int = ROWS, scale: float = 1.0) -> Record:
    random = np.random.default_rng(seed)
    request = np.sort(random.integers(0, 60, rows))
    request = np.unique(request, return_inverse=True)[1]
    score = random.random(rows).round(2) * scale
    label = (random.random(rows) < score).astype(np.float32)
    return Record(
        label,
        score,
        np.unique(request // 3, return_inverse=True)[1],
        request,
        random.integers(1, 30, rows),
    )


def value(name: str, of: Record) -> float:
    prepared = registry.resolve("metrics", name)(of)
    found = prepared.statistic(np.ones(len(of.label)))
    assert found is not None, prepared.reason
    return found


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_finite_counted_and_repeatable(name: str) -> None:
    prepared = registry.resolve("metrics", name)(record())
    assert prepared.n > 0
    assert prepared.reason is None
    assert np.isfinite(value(name, record()))
    assert value(name, record()) == value(name, record())


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_doubling_every_row_weight_changes_nothing(name: str) -> None:
    prepared = registry.resolve("metrics", name)(record())
    ones = np.ones(ROWS)
    assert prepared.statistic(2 * ones) == pytest.approx(prepared.statistic(ones), abs=1e-12)


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_a_score_that_isnt_finite_never_helps(name: str) -> None:
    """Undefined with a reason, or, in a ranking, no hit."""
    good = record()
    hit = int(np.flatnonzero(good.label)[0])
    scores = good.score.copy()
    scores[hit] = np.nan
    prepared = registry.resolve("metrics", name)(
        Record(good.label, scores, good.user, good.request, good.item)
    )
    found = prepared.statistic(np.ones(ROWS))
    if found is None:
        assert "finite" in str(prepared.reason)
    else:
        assert found <= value(name, good)


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_direction_says_what_is_better(name: str) -> None:
    """Scores that know the label beat scores that don't, in the metric's own direction."""
    base = record()
    random = np.random.default_rng(5).random(ROWS)
    knowing = np.clip(0.8 * base.label + 0.1 + 0.001 * random, 0, 1)
    direction = registry.entry("metrics", name).marks["direction"]

    def scored(score: np.ndarray) -> float:
        return value(name, Record(base.label, score, base.user, base.request, base.item))

    good, bad = scored(knowing), scored(random)
    if direction == "higher":
        assert good > bad
    elif direction == "lower":
        assert good < bad
    else:
        assert abs(good - 1) < abs(bad - 1)
