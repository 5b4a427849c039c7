"""Tasks: what a model's score means, and by which metrics it is judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness import registry
from harness.schema import TaskName


@dataclass(frozen=True, slots=True)
class Task:
    """``score`` is what the metrics see of a model's output: the probability that its logit stands
    for, or the output itself. ``main_metric`` decides the quality class. A task with ``lists`` is
    answered with the best items of the whole catalogue, the others with a score for each row.
    """

    name: TaskName
    score: Literal["probability", "value"]
    main_metric: str
    lists: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the catalog that judge this task, in the catalog's order."""
        return tuple(name for name in registry.names("metrics") if self.name in tasks_of(name))

    @property
    def lower_is_better(self) -> bool:
        """Whether the main metric is an error."""
        return bool(registry.entry("metrics", self.main_metric).marks["direction"] == "lower")


def tasks_of(metric: str) -> tuple[str, ...]:
    """The tasks that a metric judges."""
    return tuple(registry.entry("metrics", metric).marks["tasks"])


TASKS: Mapping[TaskName, Task] = {
    "click": Task("click", "probability", "auc"),
    "rating": Task("rating", "value", "rmse"),
    "next_item": Task("next_item", "value", "ndcg@10", lists=True),
}
