"""Distillation of next items: a student learns what came next and its teacher's best items.

After Tang and Wang 2018 (arXiv:1809.07428), who teach the student the items that stand on top of
the teacher's list. Here not each of those alone, weighted by its place: their probabilities among
each other, softened by a temperature (Hinton et al. 2015), are matched in every position trained.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import UnsupportedError
from harness.next_items import REAL, NextItems, full_softmax, table_of
from harness.objectives import Training
from harness.stages.divergence import distillation_loss
from harness.tables import Prepared, TensorSpec

TOP = 100
"""Items of the teacher's list that are taught unless a stage says otherwise."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """A teacher in eval mode, and how it is listened to: ``alpha`` is its share of the loss,
    ``top`` how many of its best items count.
    """

    teacher: nn.Module
    alpha: float
    temperature: float
    top: int


def top_items(asked: int | None, items: int) -> int:
    """How many items are taught of a catalogue: as asked, else ``TOP``, or all when those are
    fewer; raises ``UnsupportedError`` when more are asked for than there are.
    """
    if asked is not None and not 2 <= asked <= items:
        raise UnsupportedError(
            f"distill: teacher_top {asked}: the catalogue has {items} items, expected 2 to {items}"
        )
    return min(TOP, items) if asked is None else asked


class TaughtItems(NextItems):
    """(1 - alpha) of the training's own list loss + alpha x the divergence to the teacher over its
    best items. The teacher scores each batch anew: nothing as large as users x items is kept.

    Raises ``UnsupportedError`` for a student or a teacher that doesn't score all items.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Prepared,
        inputs: tuple[TensorSpec, ...],
        training: Training,
        *,
        seed: int,
        teaching: Teaching,
    ) -> None:
        super().__init__(module, data, inputs, training, seed=seed)
        for who, model in (("student", module), ("teacher", teaching.teacher)):
            if not hasattr(model, "catalogue") and not hasattr(model, "scores"):
                raise UnsupportedError(
                    f"distill: the {who} {type(model).__name__} has neither item vectors "
                    "(`catalogue`) nor `scores` of all items; give its class one of them"
                )
        self.teaching = teaching

    def loss(self, module: nn.Module, at: np.ndarray) -> torch.Tensor:
        """Mean loss over the positions of some users, or over some events."""
        teaching = self.teaching
        with torch.no_grad():
            taught, _, _ = self._scores(teaching.teacher, at)
            best = taught.topk(teaching.top, dim=1)  # (positions, top)
        scores, items, queries = self._scores(module, at)
        known = scores.gather(1, best.indices)  # (positions, top)
        soft = distillation_loss(known, best.values, teaching.temperature)
        if teaching.alpha == 1:
            return soft
        hard = self._hard(module, scores, items, queries)
        return (1 - teaching.alpha) * hard + teaching.alpha * soft

    def _scores(
        self, module: nn.Module, at: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Scores of all real items, (positions, items - 1), the ids that came next (positions,),
        and what was looked for, (positions, dim), where the model says it.
        """
        if not hasattr(module, "catalogue"):
            return *self.own_scores(module, at), None
        queries, items = self.queries(module, at)
        return queries @ table_of(module)[REAL:].T, items, queries

    def _hard(
        self,
        module: nn.Module,
        scores: torch.Tensor,
        items: torch.Tensor,
        queries: torch.Tensor | None,
    ) -> torch.Tensor:
        if queries is None or self.list_loss is full_softmax:
            return F.cross_entropy(scores, items - REAL)
        return self.of_queries(module, queries, items)
