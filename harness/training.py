"""The only training loop: batches of rows, one loss, validation with early stopping, best kept.

Baselines, fine-tuning, distillation and quantisation-aware training all go through ``fit``.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from harness.errors import TrainingError
from harness.next_items import NextItems
from harness.objectives import Objective, Rows, Training
from harness.tables import Prepared, TensorSpec

log = logging.getLogger(__name__)

HOPELESS = 10.0
"""Times the loss of a constant guess above which a trained model is no use to anybody."""

Progress = Callable[[str, float], None]
"""Called with a label and the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class History:
    """What happened: the loss at each evaluation, and which one was kept."""

    steps: int
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best: int
    stopped: str
    seconds: float


def start_at_mean(module: nn.Module, data: Prepared) -> None:
    """Let an untrained rating model score the mean of the training labels, where it says which of
    its weights every score starts from (``output_bias``): else the first epoch goes by on that.
    """
    bias = getattr(module, "output_bias", None)
    if data.schema.task == "rating" and isinstance(bias, torch.Tensor):
        with torch.no_grad():
            bias.fill_(float(np.mean(data.splits["train"].label)))


def objective_of(
    module: nn.Module,
    data: Prepared,
    inputs: tuple[TensorSpec, ...],
    training: Training,
    *,
    seed: int,
) -> Objective:
    """What a module is trained for by its data's task."""
    if data.schema.task == "next_item":
        return NextItems(module, data, inputs, training, seed=seed)
    return Rows(data, inputs, training, seed=seed)


def fit(
    module: nn.Module,
    data: Prepared,
    inputs: tuple[TensorSpec, ...],
    training: Training,
    *,
    seed: int,
    threads: int,
    progress: Progress,
    objective: Objective | None = None,
) -> History:
    """Train ``module`` in place on the train split, for its task's own objective unless another is
    given; it ends in eval mode with its best weights.

    The learning rate warms up and then falls along a cosine. Raises ``TrainingError`` with the
    step when the loss is no longer finite: such a run has no usable weights.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    objective = objective or objective_of(module, data, inputs, training, seed=seed)
    steps = max(1, math.ceil(training.epochs * objective.examples / training.batch_size))
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
    watch = _Watch(objective, training)
    started, losses, recent = time.monotonic(), [], []
    every = math.ceil(steps / max(1, round(training.evaluations * training.epochs)))
    module.train()
    for step, at in enumerate(_batches(objective.examples, training, steps, seed), start=1):
        value = objective.loss(module, at)
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


def _batches(examples: int, training: Training, steps: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    size = min(training.batch_size, examples)
    done = 0
    while done < steps:
        order = random.permutation(examples)
        for first in range(0, examples - size + 1, size):
            if done == steps:
                return
            done += 1
            yield order[first : first + size]


class _Watch:
    """Validation over time, and the weights of its best moment."""

    def __init__(self, objective: Objective, training: Training) -> None:
        self.objective, self.training = objective, training
        self.losses: list[float] = []
        self.best = -1
        self.state: dict[str, torch.Tensor] | None = None

    def stop(self, module: nn.Module, step: int) -> bool:
        """Evaluate; keep the weights when they are the best; say whether to stop."""
        value = self.objective.validation(module)
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
        guess = self.objective.guess()
        if guess is not None and loss > HOPELESS * guess:
            raise TrainingError(
                f"training diverged: the best validation loss is {loss:.3g}, at evaluation "
                f"{self.best + 1} of {len(self.losses)}, where always guessing the mean rate gives "
                f"{guess:.3g}; lower the learning rate ({self.training.learning_rate:g})"
            )
