"""What is trained for: batches of examples to a loss, and how good a model is on validation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import DataError, UnsupportedError
from harness.schema import FeatureSchema, TaskName
from harness.tables import Prepared, Split, TensorSpec, feeds

Loss = Callable[[torch.Tensor, torch.Tensor, np.ndarray], torch.Tensor]
"""loss(logits (rows,), labels (rows,), row indices (rows,)) -> scalar."""


@dataclass(frozen=True, slots=True)
class Training:
    """How to train. ``epochs`` may be a fraction; ``evaluations`` are spread evenly over each
    epoch, and ``patience`` is how many in a row may fail to improve before training stops.
    ``loss`` and ``negatives`` (of each positive) are for next items, see ``harness.next_items``.
    """

    epochs: float = 1.0
    batch_size: int = 4096
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    evaluations: int = 4
    patience: int = 3
    validation_rows: int = 50_000
    loss: str = "own"
    negatives: int = 128


class Objective(ABC):
    """What ``fit`` drives: losses of batches of examples, and validation, lower being better."""

    examples: int
    """Examples of the train split; a batch is some of 0 .. examples - 1."""

    @abstractmethod
    def loss(self, module: nn.Module, at: np.ndarray) -> torch.Tensor:
        """The loss, a scalar, of the examples ``at`` (batch,), in training mode."""

    @abstractmethod
    def validation(self, module: nn.Module) -> float:
        """How good the module is on a seeded part of the validation split, in eval mode; the same
        part every time. In ``UNITS`` of the task.
        """

    def guess(self) -> float | None:
        """The validation of a constant guess; None where that says nothing."""
        return None


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Mean binary cross entropy of logits in nats, the loss of click models."""
    del rows
    return F.binary_cross_entropy_with_logits(logits, labels)


def squared_error(scores: torch.Tensor, labels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Mean squared error, the loss of rating models."""
    del rows
    return F.mse_loss(scores, labels)


LOSSES: Mapping[TaskName, Loss] = {"click": cross_entropy, "rating": squared_error}
UNITS: Mapping[TaskName, str] = {
    "click": "nats",
    "rating": "squared rating",
    "next_item": "1 - NDCG@10",
}
"""What a task's validation is measured in."""


def tensors(
    schema: FeatureSchema, split: Split, rows: np.ndarray, inputs: tuple[TensorSpec, ...]
) -> dict[str, torch.Tensor]:
    """Model inputs for some rows, each as a request of one candidate."""
    arrays = feeds(schema, split, rows[:, None], inputs)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def predict(
    module: nn.Module,
    data: Prepared,
    split: Split,
    inputs: tuple[TensorSpec, ...],
    *,
    rows: np.ndarray | None = None,
    batch_size: int = 8192,
) -> np.ndarray:
    """Logits (rows,) float32 of some rows of a split (default: all), in eval mode."""
    rows = np.arange(split.rows) if rows is None else rows
    logits = np.empty(len(rows), dtype=np.float32)
    training = module.training
    module.eval()
    with torch.inference_mode():
        for first in range(0, len(rows), batch_size):
            part = rows[first : first + batch_size]
            out = module(**tensors(data.schema, split, part, inputs))
            logits[first : first + len(part)] = out.reshape(-1).numpy()
    module.train(training)
    return logits


class Rows(Objective):
    """Scored rows: clicks and ratings, with the task's own loss unless another is given.

    Raises ``DataError`` when there is nothing to validate on, and ``UnsupportedError`` for a loss
    of next items.
    """

    def __init__(
        self,
        data: Prepared,
        inputs: tuple[TensorSpec, ...],
        training: Training,
        *,
        seed: int,
        loss: Loss | None = None,
    ) -> None:
        if training.loss != "own":
            raise UnsupportedError(
                f"training: loss {training.loss!r} is for next items; the task here is "
                f"{data.schema.task}, which has a loss of its own: leave it out"
            )
        self.data, self.inputs = data, inputs
        self.own = LOSSES[data.schema.task]
        self.given = loss or self.own
        self.train = data.splits["train"]
        self.examples = self.train.rows
        self.split = data.splits["validation"]
        self.rows = validation_part(self.split, training.validation_rows, seed=seed)

    def loss(self, module: nn.Module, at: np.ndarray) -> torch.Tensor:
        """Mean loss of some rows of train."""
        scores = module(**tensors(self.data.schema, self.train, at, self.inputs)).reshape(-1)
        return self.given(scores, torch.from_numpy(self.train.label[at]), at)

    def validation(self, module: nn.Module) -> float:
        """The task's own loss."""
        scores = predict(module, self.data, self.split, self.inputs, rows=self.rows)
        return self._own(torch.from_numpy(scores))

    def guess(self) -> float:
        """The loss of always guessing the mean of the training rows."""
        mean = float(np.mean(self.train.label))
        if self.data.schema.task == "click":
            rate = float(np.clip(mean, 0.01, 0.99))
            mean = math.log(rate / (1 - rate))
        return self._own(torch.full((len(self.rows),), mean))

    def _own(self, scores: torch.Tensor) -> float:
        labels = torch.from_numpy(np.asarray(self.split.label[self.rows]))
        return float(self.own(scores, labels, self.rows))


def validation_part(split: Split, rows: int, *, seed: int) -> np.ndarray:
    """At most ``rows`` seeded row indices of a split, ascending; raises ``DataError`` for none."""
    if split.rows == 0:
        raise DataError("the validation split is empty; move its boundary")
    random = np.random.default_rng(seed)
    return np.sort(random.choice(split.rows, min(rows, split.rows), replace=False))
