"""What next-item models are trained for: the item that came next, against all others or some.

A model that reads a whole sequence at once is trained on every position of each user's latest
events; any other on single events, each with its own past.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from harness.errors import UnsupportedError
from harness.objectives import Objective, Training, tensors, validation_part
from harness.schema import UNKNOWN
from harness.tables import Prepared, TensorSpec, item_ids

REAL = UNKNOWN + 1
"""The first id that is an item."""
TOP = 10
BATCH = 256
"""Requests that are ranked at once in validation."""
SCORES = 2**27
"""Scores that full softmax holds at once, half a GB; more are worked out in parts."""
CALIBRATION = 0.75
"""How far gSASRec's loss corrects for sampling, 0 to 1 (its paper's value for this data)."""


def full_softmax(
    queries: torch.Tensor, items: torch.Tensor, table: torch.Tensor, negatives: int
) -> torch.Tensor:
    """Mean cross entropy of the next item among all but the unknown one.

    ``queries`` are (positions, dim), ``items`` (positions,) ids of what came next, ``table``
    (items, dim) all vectors; as in every loss here.
    """
    del negatives
    at_once = max(1, SCORES // len(table))  # positions
    if len(queries) <= at_once:
        # the table is cut, not the scores: their gradient is the largest array here
        return F.cross_entropy(queries @ table[REAL:].T, items - REAL)
    parts = [
        _part(q, i - REAL, table[REAL:])
        for q, i in zip(torch.split(queries, at_once), torch.split(items, at_once), strict=True)
    ]
    return torch.stack(parts).sum() / len(items)


def _part(queries: torch.Tensor, items: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Summed cross entropy of some positions, whose scores aren't kept but worked out again for
    the gradient.
    """

    def summed(queries: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(queries @ table.T, items, reduction="sum")

    value: torch.Tensor = checkpoint(summed, queries, table, use_reentrant=False)
    return value


def sampled_softmax(
    queries: torch.Tensor, items: torch.Tensor, table: torch.Tensor, negatives: int
) -> torch.Tensor:
    """Mean cross entropy of the next item among itself and ``negatives`` uniform ones, drawn once
    for the batch; one that is a position's own item doesn't count there.
    """
    own, others, _ = _sampled(queries, items, table, negatives)
    logits = torch.cat([own.unsqueeze(1), others], dim=1)  # (positions, 1 + negatives)
    return F.cross_entropy(logits, torch.zeros_like(items))


def gbce(
    queries: torch.Tensor, items: torch.Tensor, table: torch.Tensor, negatives: int
) -> torch.Tensor:
    """GSASRec's generalised binary cross entropy: the positive's probability to the power beta,
    which undoes the overconfidence of sampling (Petrov and Macdonald 2023, arXiv:2308.07192).
    """
    own, others, hit = _sampled(queries, items, table, negatives)
    rate = min(1.0, negatives / (len(table) - 2))  # of a small catalogue each may be drawn twice
    beta = rate * (CALIBRATION * (1 - 1 / rate) + 1 / rate)
    against = F.logsigmoid(-others).masked_fill(hit, 0.0).sum(dim=1)
    return -(beta * F.logsigmoid(own) + against).mean()


def bpr(
    queries: torch.Tensor, items: torch.Tensor, table: torch.Tensor, negatives: int
) -> torch.Tensor:
    """Bayesian personalised ranking: the next item above each of its own ``negatives`` uniform
    ones (Rendle et al. 2009, arXiv:1205.2618).
    """
    drawn = _draw(len(table), (len(items), negatives))
    own = (queries * table[items]).sum(dim=1, keepdim=True)
    others = (table[drawn] @ queries.unsqueeze(2)).squeeze(2)  # (positions, negatives)
    hit = drawn == items.unsqueeze(1)
    return -F.logsigmoid(own - others).masked_fill(hit, 0.0).mean()


def _sampled(
    queries: torch.Tensor, items: torch.Tensor, table: torch.Tensor, negatives: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of each position's own item (positions,), of the drawn ones (positions, negatives),
    very low where they are the own item, and where that is so.
    """
    drawn = _draw(len(table), (negatives,))
    own = (queries * table[items]).sum(dim=1)
    hit = drawn.unsqueeze(0) == items.unsqueeze(1)
    others = (queries @ table[drawn].T).masked_fill(hit, -1e4)
    return own, others, hit


def _draw(items: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(REAL, items, shape)


def table_of(module: nn.Module) -> torch.Tensor:
    """The vectors of all items of a model with a catalogue, (items, dim)."""
    table: torch.Tensor = module.catalogue.table  # type: ignore[union-attr, assignment]
    return table


ListLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
LIST_LOSSES: Mapping[str, ListLoss] = {
    "full_softmax": full_softmax,
    "sampled_softmax": sampled_softmax,
    "gbce": gbce,
    "bpr": bpr,
}


class NextItems(Objective):
    """The next item of every position, or of every event.

    Raises ``DataError`` when there is nothing to validate on, and ``UnsupportedError`` for a loss
    that isn't there or that the model can't have.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Prepared,
        inputs: tuple[TensorSpec, ...],
        training: Training,
        *,
        seed: int,
    ) -> None:
        name = "full_softmax" if training.loss == "own" else training.loss
        if name not in LIST_LOSSES:
            raise UnsupportedError(
                f"training: loss {name!r} isn't known; expected one of {', '.join(LIST_LOSSES)}"
            )
        if not hasattr(module, "catalogue") and name != "full_softmax":
            raise UnsupportedError(
                f"training: loss {name!r} needs the items' vectors; a model that scores all items "
                "by itself is trained with full_softmax"
            )
        self.data, self.training, self.list_loss = data, training, LIST_LOSSES[name]
        self.train, self.split = data.splits["train"], data.splits["validation"]
        self.inputs = inputs
        self.past = tuple(spec for spec in inputs if spec.name != "seen")
        self.whole = bool(getattr(module, "causal", False))
        self.examples = self.train.requests if self.whole else self.train.rows
        self.rows = validation_part(self.split, training.validation_rows, seed=seed)

    def loss(self, module: nn.Module, at: np.ndarray) -> torch.Tensor:
        """Mean loss over the positions of some users, or over some events."""
        if not hasattr(module, "catalogue"):
            if not hasattr(module, "scores"):
                raise UnsupportedError(
                    f"training: {type(module).__name__} gives lists only; to be trained it needs "
                    "scores(history), (requests, items), of the whole catalogue"
                )
            scores, items = self.own_scores(module, at)
            return F.cross_entropy(scores, items - REAL)
        return self.of_queries(module, *self.queries(module, at))

    def of_queries(
        self, module: nn.Module, queries: torch.Tensor, items: torch.Tensor
    ) -> torch.Tensor:
        """The training's list loss of what ``queries`` gave, over the module's catalogue."""
        return self.list_loss(queries, items, table_of(module), self.training.negatives)

    def own_scores(self, module: nn.Module, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of all real items (events, items - 1) by a model that has them itself, and the ids
        that came next, (events,).
        """
        scores: torch.Tensor = module.scores(**self._past(at))  # type: ignore[operator]
        return scores[:, REAL:], self._items(at)

    def queries(self, module: nn.Module, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model looks for, (positions, dim), and what came next, (positions,)."""
        if not self.whole:
            return module.states(**self._past(at)), self._items(at)  # type: ignore[operator]
        window = self._windows(at)
        states = module.states(history=window[:, :-1])  # type: ignore[operator]
        items = window[:, 1:]
        told = items != UNKNOWN
        return states[told], items[told]

    def validation(self, module: nn.Module) -> float:
        """1 - NDCG@10 of the next items, over the whole catalogue."""
        training, gained = module.training, 0.0
        module.eval()
        with torch.inference_mode():
            for first in range(0, len(self.rows), BATCH):
                part = self.rows[first : first + BATCH]
                _, found = module(**tensors(self.data.schema, self.split, part, self.inputs))
                gained += _gain(found[:, :TOP], self._items(part, train=False))
        module.train(training)
        return 1 - gained / len(self.rows)

    def _past(self, at: np.ndarray) -> dict[str, torch.Tensor]:
        return tensors(self.data.schema, self.train, at, self.past)

    def _items(self, rows: np.ndarray, *, train: bool = True) -> torch.Tensor:
        items = item_ids(self.data.schema, self.train if train else self.split)
        return torch.from_numpy(items[rows].astype(np.int64))

    def _windows(self, requests: np.ndarray) -> torch.Tensor:
        """The latest events of some users, (users, length + 1) int64, padded on the left."""
        past = self.train.histories
        assert past is not None
        start, end = self.train.offsets[requests], self.train.offsets[requests + 1]
        window = past.window(start, end, length=self.data.schema.length + 1)
        return torch.from_numpy(window.astype(np.int64))


def _gain(found: torch.Tensor, items: torch.Tensor) -> float:
    """Sum over requests of the discount of the place where the item stands."""
    discounts = torch.tensor([1 / math.log2(place + 2) for place in range(found.shape[1])])
    hits = (found == items.unsqueeze(1)) & (items != UNKNOWN).unsqueeze(1)
    return float((hits * discounts).sum())
