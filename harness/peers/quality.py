"""What an answer to the test split is worth, as the accuracy suite judges it."""

from collections.abc import Callable, Sequence

import numpy as np

from harness.baseline import Trained
from harness.errors import EffectError
from harness.peers.lines import Quality
from harness.results import Row
from harness.suites import accuracy, lists
from harness.tasks import TASKS

RESAMPLES = 1000


def judge_answers(trained: Trained) -> Callable[[np.ndarray, str], Quality]:
    """A function from an answer to the test split, and whose it is, to its quality: the difference
    of the task's main metric to the first answer that it is given.
    """
    task, data = TASKS[trained.data.schema.task], trained.data
    reference: list[accuracy.Evaluation] = []

    def judge(answer: np.ndarray, name: str) -> Quality:
        evaluation = accuracy.evaluate(
            lists.record_of(data, data.splits["test"], answer),
            metrics=(task.main_metric,),
            resamples=RESAMPLES,
            seed=trained.spec.seed,
        )
        reference[:] = reference or [evaluation]
        columns = {"recipe": name, "baseline": trained.spec.name}
        rows = accuracy.accuracy_rows(
            columns, evaluation, reference[0], task=task, noise_floor=None
        )
        return quality_of(task.main_metric, rows)

    return judge


def quality_of(metric: str, rows: Sequence[Row]) -> Quality:
    """The quality that the rows of the accuracy suite tell. Raises ``EffectError`` where the metric
    is undefined.
    """
    change = next(row for row in rows if row.metric == f"{metric}_difference")
    kept = next(row for row in rows if row.metric == "quality_class")
    if change.value is None or kept.value is None:
        raise EffectError(f"{metric}: {change.reason or kept.reason}")
    bounds = change.ci_low, change.ci_high
    return Quality(metric, change.value, *bounds, kept.value, str(kept.verdict))
