"""The file that says what is set beside what: workloads, our recipes, sizes of calls, targets."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from harness import registry
from harness.document import read_document
from harness.errors import Problem, RecipeError
from harness.loading import load_baseline, load_recipes
from harness.params import Count, Positive, Share, Text, UniqueNames
from harness.peers.registry import Kind, peers
from harness.recipe import Baseline, Name, Recipe, Strict

_CALL = re.compile(r"([1-9]\d{0,6})x([1-9]\d{0,6})")


def _call(text: str) -> str:
    if not _CALL.fullmatch(text):
        raise ValueError(f"expected requests x candidates such as 1x256, got {text!r}")
    return text


Call = Annotated[Text, AfterValidator(_call)]


class Bags(Strict):
    """A table of ``rows`` x ``dim`` and bags of ``shortest`` to ``longest`` ids, summed; the
    contestants store its rows in ``bits``.
    """

    rows: Annotated[Count, Field(ge=2)]
    dim: Count
    shortest: Count
    longest: Count
    bits: Literal[4, 8]
    seed: Count = 1

    @model_validator(mode="after")
    def _in_order(self) -> "Bags":
        if self.shortest > self.longest:
            raise ValueError(f"expected shortest <= longest, got {self.shortest}, {self.longest}")
        return self


class Search(Strict):
    """A catalogue of ``items`` vectors of ``dim`` numbers, from which the best ``top`` are told."""

    items: Count
    dim: Count
    top: Count
    seed: Count = 1

    @model_validator(mode="after")
    def _fits(self) -> "Search":
        if self.top > self.items:
            raise ValueError(f"expected top <= items, got {self.top}, {self.items}")
        return self


class Entry(Strict):
    """One workload of the file: a baseline with our recipes of it (paths start at the file's
    folder), or bags of a made table, or a search of a made catalogue.

    ``keep`` is the share of the reference's quality that a contestant must keep to win;
    ``target`` how many times as fast as the best peer ours should be (as the reference, with
    ``rival: reference``), ``targets`` the same for some calls, and ``bound`` why it can't be more,
    where that is known. ``peers`` leaves all but the named ones out.
    """

    name: Name
    baseline: Text | None = None
    bags: Bags | None = None
    search: Search | None = None
    ours: UniqueNames = ()
    peers: UniqueNames = ()
    calls: tuple[Call, ...]
    keep: Share = 0.999
    target: Positive = 1.0
    targets: dict[Call, Positive] = Field(default_factory=dict)
    rival: Literal["peers", "reference"] = "peers"
    bound: Text = ""

    @model_validator(mode="after")
    def _of_one_kind(self) -> "Entry":
        given = [name for name in ("baseline", "bags", "search") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"a workload has exactly one of baseline, bags, search; got {given}")
        if not self.calls:
            raise ValueError("calls: expected at least one, such as 1x256")
        if self.ours and not self.baseline:
            raise ValueError("ours names recipes of a baseline; leave it out")
        for call in self.targets:
            if call not in self.calls:
                raise ValueError(f"targets: {call!r} is none of the calls {', '.join(self.calls)}")
        wide = [call for call in self.calls if not call.endswith("x1")]
        if wide and not self.baseline:
            raise ValueError(f"{given[0]} has no candidates: write {wide[0]!r} as requests x 1")
        known = [peer.name for peer in peers(self.kind, bits=self.bits)]
        for name in self.peers:
            if name not in known:
                raise ValueError(f"unknown peer {name!r}{registry.suggest(name, known)}")
        return self

    @property
    def kind(self) -> Kind:
        """What is compared."""
        return "model" if self.baseline else "bags" if self.bags else "search"

    @property
    def bits(self) -> int:
        """Of a stored row of a table; 32 where none is asked."""
        return self.bags.bits if self.bags else 32


class _File(Strict):
    schema_version: Literal[1]
    workloads: tuple[Entry, ...]


@dataclass(frozen=True)
class Workload:
    """An entry with its files read: the baseline, and our recipes of it."""

    entry: Entry
    baseline: Baseline | None = None
    recipes: tuple[Recipe, ...] = ()

    @property
    def calls(self) -> tuple[tuple[int, int], ...]:
        """(requests, candidates) of each call."""
        found = [call.split("x") for call in self.entry.calls]
        return tuple((int(requests), int(candidates)) for requests, candidates in found)


def read_workloads(path: Path, *, only: str = "") -> tuple[Workload, ...]:
    """The workloads of a file, or the one called ``only``; baselines and recipes are read too.

    Raises ``RecipeError`` with every mistake of the file, else with those of the files it names.
    """
    document = read_document(path)
    entries: tuple[Entry, ...] = ()
    if isinstance(document.data, dict):
        try:
            entries = _File.model_validate(document.data).workloads
        except ValidationError as error:
            known = [*_File.model_fields, *Entry.model_fields, *Bags.model_fields]
            for fault in error.errors():
                document.complain(fault["loc"], registry.explain(fault, known))
    elif not document.problems:
        document.complain((), "expected a mapping with 'schema_version' and 'workloads'")
    names = [entry.name for entry in entries]
    for at, name in enumerate(names):
        if name in names[:at]:
            document.complain(("workloads", at, "name"), f"{name!r} is given twice")
    if not entries and not document.problems:
        document.complain(("workloads",), "expected at least one workload")
    if only and entries and only not in names:
        document.complain((), f"--only {only!r}: no such workload{registry.suggest(only, names)}")
    if document.problems:
        raise RecipeError(document.problems)
    return tuple(_workload(path, each) for each in entries if only in ("", each.name))


def _workload(path: Path, entry: Entry) -> Workload:
    if entry.baseline is None:
        return Workload(entry)
    baseline = load_baseline(path.parent / f"{entry.baseline}.yaml")
    recipes = load_recipes(path.parent / name for name in entry.ours)
    strange = [
        Problem(
            *(str(recipe.file), None, "baseline"),
            f"{recipe.baseline.name!r}, but workload {entry.name!r} of {path} has "
            f"{baseline.name!r}",
        )
        for recipe in recipes
        if recipe.baseline.file.resolve() != baseline.file.resolve()
    ]
    if strange:
        raise RecipeError(strange)
    return Workload(entry, baseline, recipes)
