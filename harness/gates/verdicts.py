"""What ``gate`` says: the lines and the exit code of every way to call it."""

from collections.abc import Callable
from pathlib import Path

from harness.errors import HarnessError
from harness.gates.against import check_against
from harness.gates.builds import is_build
from harness.gates.rules import GateResult, count_line, exit_code, gate_folder, shadowed
from harness.outcomes import NOTHING, told_code
from harness.store import Store
from harness.visible import told as shown

Progress = Callable[[str, float], None]
Task = Callable[[str], Progress]
Verdict = tuple[list[str], int]
"""Lines to print, and the exit code."""


def gate(folder: Path, against: Path | None, task: Task, *, shadow: bool = False) -> Verdict:
    """A run against its recipes' gates or an earlier run, or a build against another in turns.

    In ``shadow`` everything is judged and told, and the code is 0. Raises ``HarnessError`` for
    folders that can't be compared.
    """
    results = judge(folder, against, task)
    told = shadowed(results) if shadow else results
    code = exit_code(results)
    lines = [shown(f"gate {result.label}: {result.sentence}") for result in told]
    lines.append(count_line(told))
    lines.append(f"{told_code(code)}{' without --shadow; with it 0' if shadow else ''}")
    return lines, 0 if shadow else code


def judge(folder: Path, against: Path | None, task: Task) -> list[GateResult]:
    """The results behind the lines; see ``gate``."""
    if against is None:
        if is_build(folder):
            raise HarnessError(
                f"gate {folder}: a build has no gates of its own: add --against BASE"
            )
        return gate_folder(folder)
    kinds = {path: _kind(path) for path in (folder, against)}
    if None not in kinds.values() and kinds[folder] != kinds[against]:
        told = ", ".join(f"{path} is a {kind}" for path, kind in kinds.items())
        raise HarnessError(f"gate --against: {told}; give two runs or two builds")
    if kinds[folder] == "build":
        from harness.gates.interleaved import gate_builds  # loads torch, which no other gate needs

        return gate_builds(folder, against, task)
    return check_against(folder, against)


def _kind(folder: Path) -> str | None:
    if is_build(folder):
        return "build"
    return "run" if (folder / "rows.jsonl").is_file() else None


def calibrate(
    count: int, out: Path | None, store: Store, task: Task, *, say: Callable[[str], None]
) -> Verdict:
    """The gate's own rates of error, counted in ``count`` sessions and written to ``out``; ``say``
    gets a line after each session.

    Raises ``DataError`` when ``out`` can't be written, before anything is measured.
    """
    from harness.gates import calibration
    from harness.gates.calibrating import calibrate as measure  # loads torch

    if out is not None:
        calibration.claim(out)
    found = measure(count, store, task, say=say)
    lines = calibration.lines(found)
    if not found.measured:
        reasons = sorted({trial.final.reason or "" for trial in found.trials})
        return [*lines, f"nothing was measured: {'; '.join(reasons)}", told_code(NOTHING)], NOTHING
    if out is not None:
        calibration.write(found, out)
        lines.append(f"calibration: {out / 'calibration.md'}")
    return lines, 0
