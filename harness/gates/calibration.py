"""What a calibration of the speed gate found: false alarms and detections, as data and as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.environment import environment
from harness.errors import DataError
from harness.store import write_text
from harness.suites.regression import CHANCES, FAIL, PROTOCOL, WARN, Regression

LEVEL = 0.95

Kind = Literal["same", "planted"]


@dataclass(frozen=True)
class Trial:
    """One comparison: what its first measurement showed, and the verdict after confirmation."""

    session: int
    point: str
    kind: Kind
    first: Regression
    final: Regression


@dataclass(frozen=True)
class Share:
    """``count`` of ``n``, with the exact (Clopper-Pearson) 95 % interval of the rate."""

    count: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The share itself."""
        return self.count / self.n

    def __str__(self) -> str:
        return f"{self.count} of {self.n} = {self.rate:.1%} [{self.low:.1%}, {self.high:.1%}]"


def share_of(count: int, n: int) -> Share:
    """``count`` of ``n`` with its exact interval; raises ``ValueError`` for n = 0.

    >>> str(share_of(0, 30))
    '0 of 30 = 0.0% [0.0%, 11.6%]'
    """
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(confidence_level=LEVEL, method="exact")
    return Share(count, n, float(found.low), float(found.high))


@dataclass(frozen=True)
class Calibration:
    """All trials, and what they were made with."""

    trials: tuple[Trial, ...]
    asked: int
    artifact: str
    slowdown: float
    """Of the planted arm."""
    call_seconds: Mapping[str, float]
    """Of the reference at each point: median of the block medians of the first session."""

    @property
    def measured(self) -> bool:
        """Whether any trial has figures."""
        return any(trial.final.median is not None for trial in self.trials)

    def shares(self) -> dict[str, dict[str, Share]]:
        """Per point and for ``all``: how many alarms, detections and undecided ones there were."""
        points = dict.fromkeys(trial.point for trial in self.trials)
        chosen = {
            **{p: [t for t in self.trials if t.point == p] for p in points},
            **({"all": list(self.trials)} if self.trials else {}),
        }
        return {name: _shares(trials) for name, trials in chosen.items()}

    def spread(self) -> dict[str, float]:
        """|A/A p10 - 1| of every first A/A measurement that gave one: median, 90th percentile,
        largest, the share within 1 %, and their number; empty without any.
        """
        p10 = [t.first.p10 for t in self.trials if t.kind == "same" and t.first.p10 is not None]
        if not p10:
            return {}
        off = np.abs(np.array(p10) - 1)  # (comparisons,)
        return {
            "n": len(off),
            "median": float(np.median(off)),
            "p90": float(np.quantile(off, 0.9)),
            "max": float(off.max()),
            "within_1_percent": float((off <= 0.01).mean()),
        }


def _shares(trials: Sequence[Trial]) -> dict[str, Share]:
    found: dict[str, Share] = {}
    for kind, name in (("same", "false alarms"), ("planted", "detections")):
        finals = [counted(trial) for trial in trials if trial.kind == kind]
        counts = {
            name: sum(outcome in ("warning", "failed") for outcome in finals),
            f"{name}, failed alone": finals.count("failed"),
            f"inconclusive {'A/A' if kind == 'same' else 'planted'}": finals.count("inconclusive"),
        }
        if finals:
            found |= {name: share_of(count, len(finals)) for name, count in counts.items()}
    return found


def counted(trial: Trial) -> str:
    """The verdict; a planted arm that crashed was failed, but not for being slow."""
    crashed = trial.kind == "planted" and trial.final.median is None
    return "inconclusive" if crashed else trial.final.outcome


def lines(found: Calibration) -> list[str]:
    """The result as lines of text, each rate with its count and interval."""
    told = []
    for place, shares in found.shares().items():
        where = "all points" if place == "all" else place
        told += [f"{where}: {name}: {share}" for name, share in shares.items()]
    off = found.spread()
    if off:
        told.append(
            f"distance of the A/A p10 from 1 over {off['n']:.0f} comparisons: "
            f"median {off['median']:.2%}, 90th percentile {off['p90']:.2%}, "
            f"largest {off['max']:.2%}, within 1 %: {off['within_1_percent']:.1%}"
        )
    return told


def facts(found: Calibration) -> dict[str, Any]:
    """Everything as plain values: protocol, environment, rates, and the raw trials."""
    return {
        "schema_version": 1,
        "asked": found.asked,
        "artifact": found.artifact,
        "call_seconds": dict(found.call_seconds),
        "slowdown": found.slowdown,
        "limits": {"warning": WARN, "failed": FAIL, "chances": CHANCES},
        "protocol": PROTOCOL.model_dump(),
        "level": LEVEL,
        "shares": {
            place: {name: {**asdict(share), "rate": share.rate} for name, share in shares.items()}
            for place, shares in found.shares().items()
        },
        "aa_p10_off": found.spread(),
        "environment": environment(),
        "trials": [asdict(trial) for trial in found.trials],
    }


def page(found: Calibration) -> str:
    """The result as Markdown: what was done, on what, and the rates."""
    host = environment()
    calls = ", ".join(f"{name}: {1e3 * s:.2f} ms" for name, s in found.call_seconds.items())
    rows = [
        f"| {'all' if place == 'all' else place} | {name} | {share.count} | {share.n} | "
        f"{share.rate:.1%} | {share.low:.1%} to {share.high:.1%} |"
        for place, shares in found.shares().items()
        for name, share in shares.items()
    ]
    return "\n".join(
        [
            "# How far the speed gate can be trusted",
            "",
            f"{found.asked} sessions of fresh processes, each with an A/A comparison and one with "
            f"a planted slowdown of {found.slowdown:g}x at every point, all through the whole "
            f"gate: a warning over {WARN:g}, a failure over {FAIL:g} confirmed in fresh processes.",
            "",
            f"- artifact: {found.artifact}, 1 thread; one call takes {calls}",
            f"- rounds: {PROTOCOL.max_pairs}, blocks of at least "
            f"{PROTOCOL.block_seconds * 1e3:g} ms and {PROTOCOL.block_calls} calls",
            f"- machine: {host['cpu']}, {host['threads']} threads usable, environment "
            f"{host['key']}, commit {host['commit']}",
            "",
            "| point | what | count | of | rate | 95 % interval |",
            "|---|---|---:|---:|---:|---|",
            *rows,
            "",
            *([lines(found)[-1]] if found.spread() else []),
            "",
            "Intervals are exact (Clopper-Pearson) and take comparisons as independent; the points "
            "of one session share its processes.",
            "",
        ]
    )


def claim(out: Path) -> None:
    """Make the folder for the result, before anything is measured; raises ``DataError``."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / ".writable", "")
        (out / ".writable").unlink()
    except OSError as error:
        raise DataError(f"--out {out}: can't be written: {error.strerror}") from error


def write(found: Calibration, out: Path) -> None:
    """Write ``calibration.json`` and ``calibration.md``, each whole or not at all."""
    try:
        text = json.dumps(facts(found), indent=1, allow_nan=False)
        write_text(out / "calibration.json", text)
        write_text(out / "calibration.md", page(found))
    except OSError as error:
        raise DataError(f"--out {out}: can't be written: {error.strerror}") from error
