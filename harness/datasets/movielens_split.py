"""How ratings are split: by time, by folds at random, or with each user's last one left out."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from harness.datasets.options import default, no_use
from harness.datasets.split import PART, at_random, by_time, leave_last
from harness.errors import DataError


@dataclass(frozen=True, slots=True)
class Rule:
    """How rows are split: by time, with one of several random folds as the test, or with each
    user's last event as the test and the one before it as the validation.
    """

    validation: float
    test: float
    fold: int | None
    folds: int
    seed: int
    last: bool = False

    @property
    def protocol(self) -> Literal["time", "leave_last"] | None:
        """What the split promises about time."""
        if self.fold is not None:
            return None
        return "leave_last" if self.last else "time"

    def __str__(self) -> str:
        if self.last:
            return (
                "leave last out per user: the last event is the test, the one before it the "
                "validation; file order where times are the same"
            )
        if self.fold is None:
            return (
                f"global time split: {self.test:.1%} test, {self.validation:.1%} validation; "
                "rows of one time stay together, in the later part"
            )
        return (
            f"random {self.folds}-fold split of the ratings, seed {self.seed}: fold {self.fold} "
            f"(of 0 to {self.folds - 1}) is the test, {self.validation:.1%} of the other folds, "
            "at random, the validation"
        )


def make_rule(
    task: str,
    split: str | None,
    fold: int | None,
    *,
    folds: int | None,
    seed: int | None,
    shares: tuple[float | None, float | None],
) -> Rule:
    """The rule with its defaults; ``shares`` are those of validation and test.

    Raises ``DataError`` for an option without an effect and for a fold that isn't there.
    """
    validation, test = shares
    if fold is None:
        no_use("movielens", "no 'fold'", folds=folds, seed=seed)
    else:
        no_use("movielens", "a 'fold'", split=split, test_share=test)
    if task == "next_item":
        no_use("movielens", "the task next_item, which is told in the order of time", fold=fold)
    if split == "leave_last":
        no_use("movielens", "split 'leave_last'", test_share=test, validation_share=validation)
    folds = default(folds, 5)
    if fold is not None and (folds < 2 or fold >= folds):
        raise DataError(
            f"movielens: fold {fold} of {folds}: expected at least 2 folds and a fold from 0 to "
            "folds - 1"
        )
    validation, test = default(validation, 0.1), default(test, 0.1)
    return Rule(validation, test, fold, folds, default(seed, 7), split == "leave_last")


def split_rows(ratings: pl.DataFrame, rule: Rule) -> pl.Series:
    """The part of each row, in file order. ``ratings`` has the columns user and time."""
    if rule.last:
        return leave_last(ratings["user"], ratings["time"], validation=1, test=1)
    if rule.fold is None:
        return by_time(ratings["time"], validation=rule.validation, test=rule.test)
    rows = ratings.height
    place = np.random.default_rng(rule.seed).permutation(rows)
    tested = place * rule.folds // rows == rule.fold
    rest = int(rows - tested.sum())
    codes: np.ndarray = np.full(rows, PART.categories.to_list().index("test"), dtype=np.uint8)
    parts = at_random(rest, validation=rule.validation, test=0, seed=rule.seed)
    codes[~tested] = parts.to_physical().to_numpy()
    return PART.categories.gather(codes).cast(PART).alias("split")
