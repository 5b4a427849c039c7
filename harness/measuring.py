"""What is measured, once per key: scores and accuracy of every variant, and its sizes.

Scores are kept in the store under keys that hold the artifact, the engine's version, the machine
and the code that measures, so that a second run finds them; ``fresh`` measures again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness import registry
from harness.baseline import Trained
from harness.engines.base import EngineFacts
from harness.environment import environment
from harness.metrics.base import Record
from harness.profile import PROFILES, Profile
from harness.results import Row, read_rows, write_rows
from harness.store import Store, key_of, source_hash
from harness.suites import (
    accuracy,
    agreement,
    beyond,
    fairness,
    importance,
    list_agreement,
    lists,
    memory,
    multiplicity,
    references,
    scoring,
)
from harness.suites.arms import Arm
from harness.tasks import TASKS
from harness.variants import Variant

Progress = Callable[[str, float], None]
Task = Callable[[str], Progress]
"""Starts a task of the given name and gives its progress function."""

RESAMPLES = 1000
JUDGES = tuple(
    f"suites/{name}"
    for name in ("list_agreement", "beyond", "fairness", "importance", "multiplicity")
)
_ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Session:
    """What all steps of one run share; ``nonce`` is None unless everything is measured afresh."""

    store: Store
    task: Task
    threads: int
    scorer: scoring.Scorer
    profile: Profile = PROFILES["default"]
    nonce: str | None = None


@dataclass(frozen=True)
class Scored:
    """A variant with its answer to the test split and what really ran."""

    variant: Variant
    facts: EngineFacts
    folder: Path

    @cached_property
    def answer(self) -> np.ndarray:
        """Logits of the test split, (rows,) float32, or lists, (requests, places) of ``RANKED``."""
        answer: np.ndarray = np.load(self.folder / "answer.npy", allow_pickle=False)
        return answer


def common(trained: Trained, variant: Variant | None = None) -> dict[str, Any]:
    """The row columns that say which variant, on which data."""
    columns: dict[str, Any] = {
        "recipe": trained.spec.name,
        "baseline": trained.spec.name,
        "data_hash": trained.data.hash,
        "split": trained.data.split_rule,
        "seed": trained.spec.seed,
    }
    if variant is None:
        return columns
    columns |= {"recipe": variant.recipe.name, "target": variant.target.engine}
    columns["seed"] = variant.recipe.seed
    if variant.artifact:
        columns |= {"technique": variant.artifact.technique}
        columns |= {"precision": variant.artifact.precision}
    return columns


def with_facts(columns: Mapping[str, Any], facts: EngineFacts) -> dict[str, Any]:
    """Row columns with what really ran."""
    return {
        **columns,
        "engine": facts.engine,
        "engine_version": facts.version,
        "device": facts.device,
        "precision": facts.precision,
    }


def sources(*modules: str) -> list[str]:
    """Hashes of modules (paths below the package, without .py) and all they import."""
    return [source_hash(_ROOT / f"{module}.py") for module in modules]


def main_metric_hash(trained: Trained) -> str:
    """Hash of the code of the task's main metric, by which fields and timed outputs are judged."""
    metric = TASKS[trained.data.schema.task].main_metric
    return source_hash(registry.entry("metrics", metric).source)


def score(variant: Variant, trained: Trained, session: Session) -> Scored:
    """The variant's answer to the test split in its own engine, with the rows of parity, of probes
    and of the importance of fields beside it.
    """
    artifact, source = variant.artifact, variant.source
    assert artifact is not None
    assert source is not None
    engine_name = variant.target.engine
    key = key_of(
        artifact=artifact.key,
        engine=engine_name,
        machine=environment()["key"],
        data=trained.data.hash,
        source=sources("suites/scoring_worker"),
        engine_source=source_hash(registry.entry("engines", engine_name).source),
        metric=main_metric_hash(trained),
        nonce=session.nonce,
    )
    progress = session.task(f"scoring {variant.name}")

    def build(folder: Path) -> None:
        arm = Arm(variant.name, engine_name, artifact.folder)
        request = {
            "source": str(source.folder),
            "data": str(trained.data_folder),
            "columns": common(trained, variant),
            "seed": trained.spec.seed,
        }
        session.scorer.score(arm, request, folder, progress)
        progress("scored", 1.0)

    folder = session.store.make("scores", key, build)
    facts = EngineFacts(**json.loads((folder / "facts.json").read_text()))
    return Scored(variant, facts, folder)


class Judge:
    """Compares scored variants with the baseline; the baseline's bootstrap is drawn once, and only
    when something isn't known yet.
    """

    def __init__(
        self, trained: Trained, reference: Scored, session: Session, noise: float | None
    ) -> None:
        self.trained, self.reference, self.session, self.noise = trained, reference, session, noise

    @property
    def _metrics(self) -> tuple[str, ...]:
        return TASKS[self.trained.data.schema.task].metrics

    @cached_property
    def _record(self) -> Record:
        test = self.trained.data.splits["test"]
        return lists.record_of(self.trained.data, test, self.reference.answer)

    @cached_property
    def _evaluation(self) -> accuracy.Evaluation:
        return self._evaluate(self._record)

    def _evaluate(self, record: Record) -> accuracy.Evaluation:
        return accuracy.evaluate(
            record, metrics=self._metrics, resamples=RESAMPLES, seed=self.trained.spec.seed
        )

    def rows(self, scored: Scored) -> list[Row]:
        """Accuracy, difference to the baseline, agreement, parity, what lists are made of and how
        fair they are, of one variant.
        """
        columns = with_facts(common(self.trained, scored.variant), scored.facts)
        key = key_of(
            scores=scored.folder.name,
            reference=self.reference.folder.name,
            noise=self.noise,
            resamples=RESAMPLES,
            metrics=[source_hash(registry.entry("metrics", name).source) for name in self._metrics],
            source=sources(*JUDGES),
        )

        def build(folder: Path) -> None:
            test = self.trained.data.splits["test"]
            record = lists.record_of(self.trained.data, test, scored.answer)
            evaluation = self._evaluate(record)
            task = TASKS[self.trained.data.schema.task]
            rows = accuracy.accuracy_rows(
                columns, evaluation, self._evaluation, task=task, noise_floor=self.noise
            )
            rows.append(multiplicity.p_row(columns, evaluation, self._evaluation, task=task))
            rows += self._agreement(columns, scored, record)
            write_rows(folder, [*rows, *self._wider(columns, scored, evaluation)])

        folder = self.session.store.make("accuracy", key, build)
        found = [*read_rows(folder), *read_rows(scored.folder)]
        return [replace(row, **columns) for row in found]

    def _wider(
        self, columns: Mapping[str, Any], scored: Scored, evaluation: accuracy.Evaluation
    ) -> list[Row]:
        """Beyond accuracy, fairness and the kept order of fields; with differences to the baseline
        unless the variant is the baseline.
        """
        own = scored.folder == self.reference.folder
        seed, main = self.trained.spec.seed, TASKS[self.trained.data.schema.task].main_metric
        rows = beyond.beyond_rows(
            columns,
            self._lists_of(scored, evaluation),
            items=self._items,
            baseline=None if own else self._lists,
            seed=seed,
        )
        rows += fairness.fairness_rows(
            columns,
            self._groups_of(evaluation),
            metric=main,
            baseline=None if own else self._groups,
        )
        if not own and not TASKS[self.trained.data.schema.task].lists:
            sides = (read_rows(side.folder) for side in (scored, self.reference))
            rows += importance.comparison_rows(columns, *sides)
        return rows

    @cached_property
    def _items(self) -> beyond.Items:
        return beyond.items_of(self.trained.data)

    @cached_property
    def _lists(self) -> beyond.Lists:
        return self._lists_of(self.reference, self._evaluation)

    @cached_property
    def _groups(self) -> fairness.Groups:
        return self._groups_of(self._evaluation)

    def _lists_of(self, scored: Scored, evaluation: accuracy.Evaluation) -> beyond.Lists:
        data = self.trained.data
        return beyond.lists_of(data, data.splits["test"], scored.answer, evaluation.record)

    def _groups_of(self, evaluation: accuracy.Evaluation) -> fairness.Groups:
        data = self.trained.data
        parts = fairness.groupings_of(data, data.splits["test"], evaluation.record)
        main = TASKS[data.schema.task].main_metric
        return fairness.evaluate_groups(evaluation, parts, metric=main)

    def _agreement(self, columns: Mapping[str, Any], scored: Scored, record: Record) -> list[Row]:
        if record.beyond is None:
            return agreement.agreement_rows(columns, record, self._record)
        _, first = np.unique(record.request, return_index=True)
        pair = scored.answer, self.reference.answer
        return list_agreement.list_agreement_rows(columns, *pair, user=record.user[first])


def reference_rows(trained: Trained, session: Session) -> list[Row]:
    """Rows of the simple rivals: random, popularity, the user's own history."""
    columns = common(trained)
    key = key_of(
        data=trained.data.hash, seed=trained.spec.seed, source=sources("suites/references")
    )

    def build(folder: Path) -> None:
        write_rows(folder, references.reference_rows(columns, trained.data, seed=trained.spec.seed))

    folder = session.store.make("accuracy", key, build)
    return [replace(row, baseline=trained.spec.name) for row in read_rows(folder)]


def size_rows(scored: Scored, trained: Trained) -> list[Row]:
    """Bytes by part, parameters and multiply-accumulates of one variant."""
    assert scored.variant.artifact is not None
    columns = with_facts(common(trained, scored.variant), scored.facts)
    return memory.size_rows(columns, scored.variant.artifact)
