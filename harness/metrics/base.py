"""What a metric is: a statistic of scored rows that can be evaluated under row weights.

Weights are what makes one function serve both for the value (all ones) and for the bootstrap over
users (how often each row's user was drawn).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

Weights = np.ndarray
"""(rows,) float64, how often each row counts."""

Statistic = Callable[[Weights], float | None]
"""The metric's value under row weights; None where it is undefined."""

Resample = Callable[[np.ndarray], np.ndarray]
"""The metric under many user weights at once: (resamples, users) -> (resamples,), NaN where it is
undefined."""

Combine = Callable[[np.ndarray], np.ndarray]
"""The metric from sums over rows: (..., sums) -> (...), NaN where it is undefined."""

Function = TypeVar("Function", bound=Callable[..., "Prepared"])


@dataclass(frozen=True)
class Record:
    """The scored rows of one variant on one split; rows of a request stand together.

    A list shows only its first places: two or more equal scores at its end may go on through the
    rest of the catalogue, whose size ``beyond`` tells (0 where they don't).
    """

    label: np.ndarray  # (rows,) 0 or 1; ratings where that is the task
    score: np.ndarray  # (rows,) probabilities; predicted ratings
    user: np.ndarray  # (rows,) dense index of the row's user, 0..users-1
    request: np.ndarray  # (rows,) dense index of the row's request, ascending
    item: np.ndarray  # (rows,) item id; equal scores are ordered by it
    beyond: np.ndarray | None = None  # (requests,) items that were not shown, see above

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.label)

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.user.max(initial=-1)) + 1


@dataclass(frozen=True)
class Prepared:
    """A metric bound to one record: ``statistic`` may be called thousands of times.

    ``n`` counts what is averaged over (rows, users or requests); ``reason`` says why the metric
    is undefined here (then ``statistic`` gives None). ``resample`` is the quick way for a
    bootstrap over users, where there is one; it gives what ``statistic`` gives when all rows of a
    user have that user's weight.
    """

    statistic: Statistic
    n: int
    reason: str | None = None
    facts: dict[str, float] = field(default_factory=dict)
    """Counts beside the value, such as users left out."""
    resample: Resample | None = None


def metric(
    *,
    unit: str,
    direction: Literal["higher", "lower", "one"],
    over: Literal["row", "user", "request"],
    tasks: tuple[str, ...],
) -> Callable[[Function], Function]:
    """Mark ``name(record) -> Prepared`` as a metric; the arguments are read from the source."""

    def mark(function: Function) -> Function:
        return function

    del unit, direction, over, tasks
    return mark


def undefined(reason: str, facts: dict[str, float] | None = None) -> Prepared:
    """A metric that has no value on this record, and why."""
    return Prepared(lambda weights: None, 0, reason, facts or {})


def unusable(record: Record) -> str | None:
    """Why no metric of the scores themselves exists on this record; None when nothing is wrong."""
    if record.rows == 0:
        return "there are no rows"
    wrong = int(np.count_nonzero(~np.isfinite(record.score)))
    return f"{wrong} of {record.rows} scores aren't finite numbers" if wrong else None


def one_class(record: Record) -> str | None:
    """Why a metric that needs both classes is undefined; None when both are there."""
    if record.rows and record.label.min() == record.label.max():
        return f"one class only: all {record.rows} labels are {record.label[0]:g}"
    return None


def of_sums(
    record: Record,
    columns: Sequence[np.ndarray],
    combine: Combine,
    *,
    n: int,
    facts: dict[str, float] | None = None,
) -> Prepared:
    """A metric that is a function of weighted sums over rows.

    ``columns`` are (rows,) arrays; ``combine`` gets their weighted sums along its last axis. As
    rows of a user share a weight in a bootstrap, sums per user are all that it needs.
    """
    terms = np.stack([np.asarray(column, dtype=np.float64) for column in columns])  # (sums, rows)
    users = record.users
    per_user = np.stack(
        [np.bincount(record.user, term, users) for term in terms], axis=1
    )  # (users, sums)

    def statistic(weights: Weights) -> float | None:
        return defined(combine(terms @ weights))

    return Prepared(
        statistic, n, facts=facts or {}, resample=lambda weights: combine(weights @ per_user)
    )


def defined(value: np.ndarray | float) -> float | None:
    """A single value as a float, None for NaN."""
    number = float(value)
    return None if np.isnan(number) else number


def quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """``numerator / denominator``, NaN (without a warning) where the denominator is 0."""
    numerator, denominator = np.asarray(numerator), np.asarray(denominator)
    nothing = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=nothing, where=denominator != 0)
    return nothing


def mean(sums: np.ndarray) -> np.ndarray:
    """First sum divided by second: (..., 2) -> (...)."""
    return quotient(sums[..., 0], sums[..., 1])
