"""The small run of tests/e2e seen from outside: started, watched, ended, and its rows compared."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.results import read_rows

E2E = Path(__file__).parents[1] / "e2e"
RECIPES = tuple(sorted((E2E / "recipes").glob("*.yaml")))
QUICK = E2E / "profiles" / "quick.yaml"
BRIEF = Path(__file__).with_name("brief.yaml")
PHASES = {
    "training": r"baseline ",
    "export": r"\S+@\S+: export",
    "stage": r"\S+@\S+: ",
    "scoring": r"scoring ",
    "timing": r"timing |cold starts|peaks of",
    "report": r"report: writing",
}
"""Parts of a run by how the lines of their progress begin; the first that fits counts."""
TIMEOUT = 600.0
_SAID = tempfile.TemporaryDirectory(prefix="said-")  # what runs say, until this process ends


class Fault(AssertionError):
    """What a run did and may not do."""


def expect(right: bool, text: str) -> None:
    """Raise ``Fault`` unless ``right``."""
    if not right:
        raise Fault(text)


@dataclass(frozen=True)
class Run:
    """A process that runs the recipes, and the files that it speaks into."""

    process: subprocess.Popen[bytes]
    said: Path
    complained: Path

    @property
    def lines(self) -> list[str]:
        """What it has said so far."""
        return self.said.read_text().splitlines()

    @property
    def errors(self) -> list[str]:
        """What it has complained of so far; the log (``--debug``) and rulers left out."""
        lines = self.complained.read_text().splitlines()
        return [line for line in lines if line and not re.match(r"(DEBUG|INFO): ", line)]

    @property
    def phase(self) -> str:
        """The part of the run that it is in; ``start`` before the first."""
        found = [phase for line in self.lines if (phase := phase_of(line))]
        return found[-1] if found else "start"

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Its exit code; a run that doesn't end is a fault."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Fault(f"a run did not end within {timeout:g} s; {self.lines[-1:]}") from None

    def story(self) -> str:
        """The end of what it said, for a fault."""
        return "\n".join([*self.lines[-8:], *self.errors[-12:]])


def phase_of(line: str) -> str | None:
    """The part of a run that a line of progress belongs to."""
    return next((name for name, begin in PHASES.items() if re.match(begin, line)), None)


@dataclass(frozen=True)
class Work:
    """What is run, and how it is measured."""

    recipes: tuple[Path, ...] = RECIPES
    profile: Path = QUICK


def start(
    out: Path,
    cache: Path,
    *,
    debug: bool = True,
    extra: Mapping[str, str] | None = None,
    work: Work = Work(),
) -> Run:
    """Begin a run in a session of its own."""
    folder = Path(tempfile.mkdtemp(dir=_SAID.name))
    said, complained = folder / "stdout", folder / "stderr"
    names = [sys.executable, "-m", "harness", "run", *map(str, work.recipes), "--out", str(out)]
    words = [*names, "--profile", str(work.profile), *(["--debug"] if debug else [])]
    with said.open("wb") as one, complained.open("wb") as other:
        process = subprocess.Popen(
            words,
            env={**os.environ, "HARNESS_CACHE": str(cache), **(extra or {})},
            stdout=one,
            stderr=other,
            start_new_session=True,
        )
    return Run(process, said, complained)


def finish(out: Path, cache: Path, *, work: Work = Work()) -> Run:
    """A whole run, which must end with 0."""
    run = start(out, cache, work=work)
    code = run.wait()
    expect(code == 0, f"an undisturbed run ended with {code}:\n{run.story()}")
    return run


def wait_for(done: Callable[[], bool], run: Run, *, seconds: float) -> bool:
    """Whether ``done()`` came true before the run ended and the time was up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        if run.process.poll() is not None:
            return False
        time.sleep(0.02)
    return False


def accuracy(folder: Path) -> dict[tuple[object, ...], float | None]:
    """Every figure of a run that no clock is behind."""
    scenarios = ("accuracy", "agreement", "reference", "beyond", "fairness", "importance")
    return {
        (row.recipe, row.target, row.scenario, row.metric): row.value
        for row in read_rows(folder)
        if row.scenario in scenarios
    }


def store_log(runs: list[Run]) -> tuple[Counter[str], Counter[str]]:
    """How often each entry of the cache was begun after it had been made, and how often made."""
    again, made = Counter[str](), Counter[str]()
    for run in runs:
        for line in run.complained.read_text().splitlines():
            word, _, key = line.removeprefix("DEBUG: ").partition(" ")
            if not line.startswith("DEBUG: ") or "/" not in key:
                continue
            if word == "making" and made[key]:
                again[key] += 1
            made[key] += word == "made"
    return again, +made


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
