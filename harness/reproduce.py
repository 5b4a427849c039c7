"""Published figures trained and scored anew: does this harness measure what the field measured?"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from harness import registry
from harness.baseline import prepared_data, train_baseline
from harness.document import read_document
from harness.environment import environment, usable_threads
from harness.errors import DataError, RecipeError
from harness.loading import load_baseline
from harness.lock import test_metrics
from harness.measuring import Session, Task
from harness.params import Count, Positive, Text
from harness.recipe import Baseline, Strict
from harness.store import Store, write_text
from harness.suites import accuracy, list_references, lists, references
from harness.suites.scoring import Scorer

RIVALS = {
    "bias": references.bias_ratings,
    "mean": references.mean_ratings,
    "popularity": list_references.popularity_lists,
}
"""Simple rivals that have published figures of their own."""


class Figure(Strict):
    """One published figure: where it stands, its protocol, and how far ours may be from it."""

    name: Text
    baseline: Text
    metric: Text
    published: Positive
    band: Positive
    source: Text
    rival: Literal["bias", "mean", "popularity"] | None = None
    folds: Count = 1


class _File(Strict):
    schema_version: Literal[1]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A figure as it came out here: its mean over the folds, and each of them."""

    figure: Figure
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Ours less the published one."""
        return self.value - self.figure.published

    @property
    def inside(self) -> bool:
        """Whether ours lies within the band."""
        return abs(self.deviation) <= self.figure.band


def read_figures(path: Path) -> tuple[Figure, ...]:
    """The figures of a YAML file. Raises ``RecipeError`` with every mistake."""
    document = read_document(path)
    if isinstance(document.data, dict):
        try:
            file = _File.model_validate(document.data)
        except ValidationError as error:
            for fault in error.errors():
                known = [*_File.model_fields, *Figure.model_fields]
                document.complain(fault["loc"], registry.explain(fault, known))
        else:
            for at, figure in enumerate(file.figures):
                if figure.metric not in registry.names("metrics"):
                    near = registry.suggest(figure.metric, registry.names("metrics"))
                    place = ("figures", at, "metric")
                    document.complain(place, f"unknown metric {figure.metric!r}{near}")
            if not document.problems:
                return file.figures
    elif not document.problems:
        document.complain((), "expected a mapping with 'schema_version' and 'figures'")
    raise RecipeError(document.problems)


def reproduce(path: Path, store: Store, task: Task) -> list[Reproduced]:
    """Every figure of a file; baselines are found beside it. What was trained is kept.

    Raises ``RecipeError`` for mistakes in any file, before anything is trained, and ``DataError``
    where data can't be had.
    """
    figures = read_figures(path)
    specs = {figure.name: load_baseline(path.parent / figure.baseline) for figure in figures}
    threads = usable_threads()
    with Scorer(threads) as scorer:
        session = Session(store, task, threads, scorer)
        return [
            Reproduced(figure, tuple(_values(figure, specs[figure.name], session)))
            for figure in figures
        ]


def _values(figure: Figure, spec: Baseline, session: Session) -> Iterator[float]:
    for fold in range(figure.folds):
        value = _value(figure, _folded(spec, fold, figure.folds), session)
        if value is None:
            raise DataError(f"{figure.name}: {figure.metric} is undefined on fold {fold}")
        yield value


def _folded(spec: Baseline, fold: int, folds: int) -> Baseline:
    """The baseline with another fold held out."""
    if folds == 1:
        return spec
    parameters = spec.dataset.parameters
    if "fold" not in parameters:
        raise DataError(
            f"{spec.file}: dataset {spec.dataset.name} has no folds, {folds} were asked"
        )
    dataset = replace(spec.dataset, parameters={**parameters, "fold": fold, "folds": folds})
    return replace(spec, dataset=dataset)


def _value(figure: Figure, spec: Baseline, session: Session) -> float | None:
    progress = session.task(f"{figure.name}, fold {spec.dataset.parameters.get('fold')}")
    if figure.rival is None:
        trained = train_baseline(spec, session.store, threads=session.threads, progress=progress)
        return test_metrics(trained, session)[figure.metric]
    data, _ = prepared_data(spec, session.store, progress)
    split = data.splits["test"]
    answer = RIVALS[figure.rival](data, split)
    record = lists.record_of(data, split, answer)
    found = accuracy.evaluate(record, metrics=(figure.metric,), resamples=2, seed=spec.seed)
    return found.values[figure.metric]


def lines(found: Sequence[Reproduced]) -> list[str]:
    """A Markdown table of all figures, ours beside the published one."""
    rows = [
        f"| {one.figure.name} | {one.figure.metric} | {one.figure.published:.3f} | "
        f"{one.value:.4f} | {_spread(one)} | {one.deviation:+.4f} | {one.figure.band:.3f} | "
        f"{'inside' if one.inside else 'OUTSIDE'} | {one.figure.source} |"
        for one in found
    ]
    return [
        "| figure | metric | published | ours | over folds | deviation | band | | source |",
        "| --- | --- | --: | --: | --: | --: | --: | --- | --- |",
        *rows,
    ]


def _spread(one: Reproduced) -> str:
    if len(one.values) < 2:
        return "1"
    return f"{len(one.values)}, sd {np.std(one.values, ddof=1):.4f}"


def write(found: Sequence[Reproduced], folder: Path, *, say: Callable[[str], None]) -> None:
    """Write ``figures.md`` and ``figures.json`` into ``folder``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = environment()
    text = [
        "# Published figures, and ours",
        "",
        *lines(found),
        "",
        f"Machine: {facts['cpu']}, commit {facts['commit']}.",
    ]
    write_text(folder / "figures.md", "\n".join(text) + "\n")
    content: dict[str, Any] = {
        "figures": [
            {**one.figure.model_dump(), "values": one.values, "value": one.value} for one in found
        ],
        "environment": facts,
    }
    write_text(folder / "figures.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    say(f"written: {folder / 'figures.md'}")
