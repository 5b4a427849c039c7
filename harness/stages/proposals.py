"""Which point of a space to try next: all of them once, or the likeliest to be good (Optuna)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import optuna

Place = tuple[int, ...]
"""Of each parameter in turn the index of its value."""
ASKS = 100
"""Proposals outside what is left, before one of those is drawn at random."""


class Proposals:
    """Points of ``space`` among ``points``, none twice; seeded.

    With as many trials as there are points they come in random order, each once. Else a
    tree-structured Parzen estimator (Bergstra et al. 2011) proposes, values taken as ordered; what
    is outside ``points`` it is told to be bad.
    """

    def __init__(
        self, space: Mapping[str, Sequence[Any]], points: Sequence[Place], *, trials: int, seed: int
    ) -> None:
        self.space, self.points = space, set(points)
        self._random = np.random.default_rng(seed)
        order = self._random.permutation(len(points))
        self._left = [points[at] for at in order]
        self._study = _study(trials, seed) if trials < len(points) else None
        self._asked: optuna.Trial | None = None

    @property
    def left(self) -> int:
        """How many points weren't proposed yet."""
        return len(self._left)

    def next(self) -> Place:
        """A point that wasn't proposed yet; there must be one left."""
        place = self._left[0] if self._study is None else self._proposed(self._study)
        self._left.remove(place)
        return place

    def tell(self, place: Place, loss: float | None) -> None:
        """What came out of the last proposal; None where it is no use."""
        assert place not in self._left
        if self._study is not None and self._asked is not None:
            _tell(self._study, self._asked, loss)

    def _proposed(self, study: "optuna.Study") -> Place:
        import optuna

        choices = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1)
            for name, values in self.space.items()
        }
        for _ in range(ASKS):
            self._asked = study.ask(dict(choices))
            place: Place = tuple(int(self._asked.params[name]) for name in self.space)
            if place in self._left:
                return place
            if place in self.points:  # a good one again: no news
                study.tell(self._asked, state=optuna.trial.TrialState.FAIL)
            else:
                _tell(study, self._asked, None)
        place = self._left[int(self._random.integers(len(self._left)))]
        study.enqueue_trial(dict(zip(self.space, place, strict=True)))
        self._asked = study.ask(dict(choices))
        return place


def _study(trials: int, seed: int) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, trials // 3))
    return optuna.create_study(direction="minimize", sampler=sampler)


def _tell(study: "optuna.Study", asked: "optuna.Trial", loss: float | None) -> None:
    import optuna

    if loss is None:
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(asked, loss)
