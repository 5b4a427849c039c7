"""The only training loop: batches of rows, one loss, validation with early stopping, best kept.

Baselines, fine-tuning, distillation and quantisation-aware training all go through ``fit``.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import DataError, TrainingError
from harness.schema import FeatureSchema, TaskName
from harness.tables import Prepared, Split, TensorSpec, feeds

log = logging.getLogger(__name__)

HOPELESS = 10.0
"""Times the loss of a constant guess above which a trained model is no use to anybody."""

Loss = Callable[[torch.Tensor, torch.Tensor, np.ndarray], torch.Tensor]
"""loss(logits (rows,), labels (rows,), row indices (rows,)) -> scalar."""

Progress = Callable[[str, float], None]
"""Called with a label and the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Training:
    """How to train. ``epochs`` may be a fraction; ``evaluations`` are spread evenly over each
    epoch, and ``patience`` is how many in a row may fail to improve before training stops.
    """

    epochs: float = 1.0
    batch_size: int = 4096
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    evaluations: int = 4
    patience: int = 3
    validation_rows: int = 50_000


@dataclass(frozen=True, slots=True)
class History:
    """What happened: the loss at each evaluation, and which one was kept."""

    steps: int
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best: int
    stopped: str
    seconds: float


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Mean binary cross entropy of logits in nats, the loss of click models."""
    del rows
    return F.binary_cross_entropy_with_logits(logits, labels)


def squared_error(scores: torch.Tensor, labels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Mean squared error, the loss of rating models."""
    del rows
    return F.mse_loss(scores, labels)


LOSSES: Mapping[TaskName, Loss] = {"click": cross_entropy, "rating": squared_error}
UNITS: Mapping[TaskName, str] = {"click": "nats", "rating": "squared rating"}
"""What a task's loss is measured in."""


def start_at_mean(module: nn.Module, data: Prepared) -> None:
    """Let an untrained rating model score the mean of the training labels, where it says which of
    its weights every score starts from (``output_bias``): else the first epoch goes by on that.
    """
    bias = getattr(module, "output_bias", None)
    if data.schema.task == "rating" and isinstance(bias, torch.Tensor):
        with torch.no_grad():
            bias.fill_(float(np.mean(data.splits["train"].label)))


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


def fit(
    module: nn.Module,
    data: Prepared,
    inputs: tuple[TensorSpec, ...],
    training: Training,
    *,
    seed: int,
    threads: int,
    progress: Progress,
    loss: Loss | None = None,
) -> History:
    """Train ``module`` in place on the train split, on its task's own loss unless another is given;
    it ends in eval mode with its best weights.

    The learning rate warms up and then falls along a cosine. Raises ``TrainingError`` with the
    step when the loss is no longer finite: such a run has no usable weights.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    train, loss = data.splits["train"], loss or LOSSES[data.schema.task]
    steps = max(1, math.ceil(training.epochs * train.rows / training.batch_size))
    if training.epochs == 0:
        module.eval()
        return History(0, (), (), -1, "no epochs asked for", 0.0)
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _shape(steps, training.warmup))
    watch = _Watch(data, inputs, training, seed)
    started, losses, recent = time.monotonic(), [], []
    every = math.ceil(steps / max(1, round(training.evaluations * training.epochs)))
    module.train()
    for step, rows in enumerate(_batches(train, training, steps, seed), start=1):
        value = loss(
            module(**tensors(data.schema, train, rows, inputs)).reshape(-1),
            torch.from_numpy(train.label[rows]),
            rows,
        )
        if not math.isfinite(number := value.item()):
            raise TrainingError(
                f"loss is {number} at step {step} of {steps}; lower the learning rate "
                f"({training.learning_rate:g}) or look at the numeric columns"
            )
        recent.append(number)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress(f"step {step}/{steps}, loss {number:.4f}", step / steps)
        if step % every == 0 or step == steps:
            losses.append(float(np.mean(recent)))
            recent.clear()
            if watch.stop(module, step):
                break
    watch.restore(module)
    stopped = "validation no longer improves" if step < steps else "all steps done"
    seconds = time.monotonic() - started
    return History(step, tuple(losses), tuple(watch.losses), watch.best, stopped, seconds)


def _shape(steps: int, warmup: float) -> Callable[[int], float]:
    first = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / first
        done = (step - first) / max(1, steps - first)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def _batches(split: Split, training: Training, steps: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    size = min(training.batch_size, split.rows)
    done = 0
    while done < steps:
        order = random.permutation(split.rows)
        for first in range(0, split.rows - size + 1, size):
            if done == steps:
                return
            done += 1
            yield order[first : first + size]


class _Watch:
    """Validation loss over time, and the weights of its best moment."""

    def __init__(
        self, data: Prepared, inputs: tuple[TensorSpec, ...], training: Training, seed: int
    ) -> None:
        self.data, self.inputs, self.training = data, inputs, training
        self.split = data.splits["validation"]
        if self.split.rows == 0:
            raise DataError("the validation split is empty; move its boundary")
        random = np.random.default_rng(seed)
        count = min(training.validation_rows, self.split.rows)
        self.rows = np.sort(random.choice(self.split.rows, count, replace=False))
        self.losses: list[float] = []
        self.best = -1
        self.state: dict[str, torch.Tensor] | None = None

    def stop(self, module: nn.Module, step: int) -> bool:
        """Evaluate; keep the weights when they are the best; say whether to stop."""
        logits = torch.from_numpy(
            predict(module, self.data, self.split, self.inputs, rows=self.rows)
        )
        labels = torch.from_numpy(self.split.label[self.rows])
        value = float(LOSSES[self.data.schema.task](logits, labels, self.rows))
        self.losses.append(value)
        log.info("step %d: validation loss %.5f", step, value)
        if not math.isfinite(value):
            raise TrainingError(f"validation loss is {value} after step {step}")
        if self.best < 0 or value < self.losses[self.best]:
            self.best = len(self.losses) - 1
            self.state = copy.deepcopy(module.state_dict())
        return len(self.losses) - 1 - self.best >= self.training.patience

    def restore(self, module: nn.Module) -> None:
        """Give the module its best weights, in eval mode."""
        if self.state is not None:
            module.load_state_dict(self.state)
            self._check_sense(self.losses[self.best])
        module.eval()

    def _check_sense(self, loss: float) -> None:
        """A finite loss can still be nonsense: refuse one far above that of a constant guess."""
        guess = self._guess()
        if loss > HOPELESS * guess:
            raise TrainingError(
                f"training diverged: the best validation loss is {loss:.3g}, at evaluation "
                f"{self.best + 1} of {len(self.losses)}, where always guessing the mean rate gives "
                f"{guess:.3g}; lower the learning rate ({self.training.learning_rate:g})"
            )

    def _guess(self) -> float:
        """Validation loss of always guessing the mean of the training rows."""
        task = self.data.schema.task
        mean = float(np.mean(self.data.splits["train"].label))
        if task == "click":
            rate = float(np.clip(mean, 0.01, 0.99))
            mean = math.log(rate / (1 - rate))
        labels = torch.from_numpy(np.asarray(self.split.label[self.rows]))
        return float(LOSSES[task](torch.full_like(labels, mean), labels, self.rows))
