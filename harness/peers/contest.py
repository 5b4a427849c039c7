"""The contestants of a workload: made by our stages and by the peers' tools, then judged.

What fails or can't run here stays in the table with why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness import registry
from harness.artifact import Artifact, read_artifact
from harness.baseline import Trained, prepared_data, train_baseline
from harness.engines.probing import probe_engine
from harness.errors import EffectError, HarnessError
from harness.making import Maker, open_maker
from harness.peers import child
from harness.peers.lines import Quality
from harness.peers.quality import judge_answers
from harness.peers.registry import Peer, Side, peers, why_missing
from harness.peers.spec import Workload
from harness.peers.synthetic import judge, make_start, write_calls
from harness.recipe import StageSpec
from harness.store import Store
from harness.tables import Prepared
from harness.variants import MISSING, Variant, attempt, build_stage, make_variant, run_stage

Task = Callable[[str], Callable[[str, float], None]]


@dataclass(frozen=True)
class Contestant:
    """One contestant; without a ``folder`` it was skipped or failed, for the ``reason``."""

    name: str
    side: Side
    engine: str
    folder: Path | None = None
    status: Literal["ok", "skipped", "failed"] = "ok"
    reason: str | None = None
    quality: Quality | None = None
    eligible: bool = False

    @property
    def artifact(self) -> Artifact:
        """What it runs; only of one that has a folder."""
        assert self.folder is not None, f"{self.name}: {self.reason}"
        return read_artifact(self.folder)

    def ended(self, status: Literal["skipped", "failed"], reason: str) -> "Contestant":
        """The same one without anything to run."""
        return replace(self, folder=None, status=status, reason=reason, eligible=False)


@dataclass(frozen=True)
class Setting:
    """A workload and what making it takes; ``scratch`` takes files of inputs."""

    workload: Workload
    store: Store
    task: Task
    threads: int
    scratch: Path


@dataclass(frozen=True)
class Contest:
    """All contestants of a workload, judged; calls are drawn from ``data``, or made without."""

    workload: Workload
    contestants: tuple[Contestant, ...]
    data: Prepared | None
    seed: int


def make_contest(setting: Setting) -> Contest:
    """All contestants of a workload, made and judged, the reference first.

    Raises ``HarnessError`` when a baseline can't be trained, or the reference made or scored.
    """
    if setting.workload.baseline is None:
        return _of_made_table(setting)
    return _of_baseline(setting)


def _of_baseline(setting: Setting) -> Contest:
    workload, store, threads = setting.workload, setting.store, setting.threads
    assert workload.baseline is not None
    progress = setting.task(f"baseline {workload.baseline.name}")
    trained = train_baseline(workload.baseline, store, threads=threads, progress=progress)
    _, data = prepared_data(workload.baseline, store, progress)
    export = StageSpec("export_onnx", registry.bind("stages", "export_onnx", {}))
    seed, how = trained.spec.seed, (threads, progress, build_stage)
    exported = run_stage(trained.artifact, export, seed, trained, store, how)
    starts = {"torch": trained.artifact, "onnx": exported}
    found = [*_made_by_tools(setting, starts, data=data, seed=seed), *_ours(setting, trained)]
    judge_one = judge_answers(trained)
    contestants = _judged(
        setting, found, lambda one: judge_one(_answer(setting, one, data=data), one.name)
    )
    return Contest(workload, contestants, trained.data, seed)


def _of_made_table(setting: Setting) -> Contest:
    workload = setting.workload
    asked = workload.entry.bags or workload.entry.search
    assert asked is not None
    start = make_start(asked, setting.store)
    requests = workload.calls[0][0]
    folder = setting.scratch / f"{start.key}-{requests}"  # its name is in the key of the answers
    folder.mkdir()
    feeds = write_calls(asked, requests, folder / "feeds.npz")
    found = _made_by_tools(setting, {"table": start}, data=None, seed=asked.seed)
    contestants = _judged(
        setting,
        found,
        lambda one: judge(asked, start, feeds, _answer(setting, one, feeds=feeds)),
    )
    return Contest(workload, contestants, None, asked.seed)


def _made_by_tools(
    setting: Setting, starts: Mapping[str, Artifact], *, data: Path | None, seed: int
) -> list[Contestant]:
    entry = setting.workload.entry
    chosen = [
        peer
        for peer in peers(entry.kind, bits=entry.bits)
        if not entry.peers or peer.side != "peer" or peer.name in entry.peers
    ]
    progress, found = setting.task(f"{entry.name}: making peers"), []
    for at, peer in enumerate(chosen, start=1):
        found.append(_made_by_tool(peer, starts[peer.start], setting.store, data=data, seed=seed))
        progress(peer.name, at / len(chosen))
    return found


def _made_by_tool(
    peer: Peer, start: Artifact, store: Store, *, data: Path | None, seed: int
) -> Contestant:
    contestant = Contestant(peer.name, peer.side, peer.engine, start.folder)
    missing = why_missing(peer)
    if missing:
        return contestant.ended("skipped", missing)
    if peer.make is None:
        return contestant
    asked: dict[str, Any] = {
        "kind": peer.kind,
        "peer": peer.name,
        "start": start.folder,
        "data": data,
    }
    try:
        folder = child.ask("make", store=store.root, seed=seed, **asked)
    except child.PeerError as error:
        return contestant.ended("failed", str(error))
    return replace(contestant, folder=folder)


def _ours(setting: Setting, trained: Trained) -> list[Contestant]:
    variants = [Variant(r, target) for r in setting.workload.recipes for target in r.targets]
    with open_maker(setting.threads) as maker:
        return [_own(setting, trained, variant, maker) for variant in variants]


def _own(setting: Setting, trained: Trained, variant: Variant, maker: Maker) -> Contestant:
    contestant = Contestant(variant.name, "ours", variant.target.engine)
    probe = probe_engine(variant.target.engine)
    if not probe.ok:
        status: Literal["skipped", "failed"] = "skipped" if probe.code in MISSING else "failed"
        return contestant.ended(status, f"{probe.code}: {probe.sentence}")
    how: Any = {"threads": setting.threads, "progress": setting.task(f"making {variant.name}")}
    how["build"] = maker.of(variant.name, trained.data_folder)
    made = attempt(variant, lambda one: make_variant(one, trained, setting.store, **how))
    folder = made.artifact.folder if made.artifact else None
    return replace(contestant, folder=folder, status=made.status, reason=made.reason)


def _answer(setting: Setting, contestant: Contestant, **what: Any) -> np.ndarray:
    folder = child.ask(
        "score",
        store=setting.store.root,
        engine=contestant.engine,
        folder=contestant.folder,
        **what,
    )
    answer: np.ndarray = np.load(folder / "answer.npy", allow_pickle=False)
    return answer


def _judged(
    setting: Setting, contestants: list[Contestant], judge_one: Callable[[Contestant], Quality]
) -> tuple[Contestant, ...]:
    """All contestants with their quality. Raises ``HarnessError`` where the reference, the first,
    has none: nothing could be compared then.
    """
    entry, found = setting.workload.entry, list[Contestant]()
    progress = setting.task(f"{entry.name}: scoring")
    for at, one in enumerate(contestants, start=1):
        found.append(_with_quality(one, judge_one, keep=entry.keep))
        if found[0].folder is None:
            raise HarnessError(f"{entry.name}: the reference, {one.name}: {found[0].reason}")
        progress(one.name, at / len(contestants))
    return tuple(found)


def _with_quality(
    one: Contestant, judge_one: Callable[[Contestant], Quality], *, keep: float
) -> Contestant:
    if one.folder is None:
        return one
    try:
        quality = judge_one(one)
    except (child.PeerError, EffectError) as error:
        return one.ended("failed", str(error))
    return replace(one, quality=quality, eligible=one.side == "reference" or quality.kept >= keep)
