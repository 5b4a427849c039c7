"""The drivers of faults see what they look for: planted leaks, entries made twice, bad parts."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import box
import numpy as np
import pytest
from disk import contents
from driven import Fault, Run, expect, phase_of, store_log
from kills import Undisturbed
from soak import Sample, grows, lines, slope

HOUR = 3600.0


def samples(*, leak: float = 0.0, descriptors: int = 0, drift: float = 0.0) -> list[Sample]:
    """An hour in 5 s chunks around 100 MiB and 2 ms; growth over it, as a share."""
    random = np.random.default_rng(1)
    at = np.arange(5, HOUR, 5)
    rss = 2**20 * (100 + 100 * leak * at / HOUR + random.normal(0, 0.2, len(at)))
    tail = 2e-3 * (1 + drift * at / HOUR) + random.normal(0, 1e-4, len(at))
    held = 7 + (descriptors * at / HOUR).astype(int)
    values = zip(at, rss, held, tail, strict=True)
    return [Sample(float(t), int(m), int(d), float(p)) for t, m, d, p in values]


def test_the_slope_of_a_line_is_its_slope() -> None:
    at = np.arange(0, HOUR, 36)
    found = slope(at, 100 + 10 * at / HOUR)  # the last three quarters: 102.5 to 110, middle 106.2
    assert found.value == pytest.approx(10 / 106.2, rel=1e-2)
    assert found.low <= found.value <= found.high
    with pytest.raises(ValueError, match="7 samples show no trend"):
        slope(at[:7], at[:7])


def test_what_fills_up_at_the_start_is_no_growth() -> None:
    at = np.arange(0, HOUR, 36)
    assert slope(at, np.where(at < HOUR / 5, 50, 100)).value == 0


@pytest.mark.parametrize(("leak", "found"), [(0.0, False), (0.05, True), (0.005, False)])
def test_a_leak_is_told_from_noise(leak: float, found: bool) -> None:
    said, well = lines(samples(leak=leak))
    assert well is not found
    at = [one.at for one in samples(leak=leak)]
    assert grows(slope(at, [one.rss for one in samples(leak=leak)])) is found
    assert said[0] == "719 chunks in 59.9 minutes"


def test_descriptors_that_grow_are_seen_and_a_drift_of_p99_is_told() -> None:
    said, well = lines(samples(descriptors=3, drift=1.0))
    assert not well
    assert said[3] == "descriptors: 7 to 9, they grow"
    assert said[2].startswith("p99: ")
    assert "+6" in said[2]
    assert said[2].endswith(", 0 chunks overloaded")
    behind = [replace(one, overloaded=one.at < 30) for one in samples()]  # at 5, 10, .. 25
    assert lines(behind)[0][2].endswith(", 5 chunks overloaded")


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("probing engines: ort-cpu", None),
        ("baseline made: step 3/63, loss 0.5", "training"),
        ("made-fp16@ort-cpu: export_onnx", "export"),
        ("made-half-int8@ort-cpu: distill", "stage"),
        ("scoring made-fp32@ort-cpu: scored", "scoring"),
        ("timing all variants: single 1x256", "timing"),
        ("report: writing", "report"),
        ("report: /tmp/out/report.md", None),
    ],
)
def test_a_line_tells_its_part_of_the_run(line: str, phase: str | None) -> None:
    assert phase_of(line) == phase


def test_an_entry_made_again_is_counted(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "out").write_text("")
    runs = []
    for name, keys in (("first", ("a/1", "a/2")), ("second", ("a/2", "a/3"))):
        log = "".join(f"DEBUG: making {key}\nDEBUG: made {key}\n" for key in keys)
        (tmp_path / name).write_text(f"DEBUG: making a/9\n{log}WARNING: odd\n")
        runs.append(Run(process, tmp_path / "out", tmp_path / name))
    again, made = store_log(runs)
    assert again == Counter({"a/2": 1})
    assert made == Counter({"a/1": 1, "a/2": 2, "a/3": 1})
    assert runs[0].errors == ["WARNING: odd"]


def test_contents_see_a_change(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = contents(tmp_path)
    (tmp_path / "a.txt").write_text("two")
    assert before.keys() == contents(tmp_path).keys() == {"a.txt"}
    assert contents(tmp_path) != before


def test_a_part_that_does_not_hold_is_told_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[float, int]] = []

    def holds(seconds: float, seed: int) -> dict[str, int]:
        asked.append((seconds, seed))
        return {"kills": 3}

    def breaks(seconds: float, seed: int) -> None:
        expect(False, "lost a row")

    monkeypatch.setattr(box, "parts", lambda: {"breaks": (breaks, 0.25), "holds": (holds, 0.75)})
    assert box.main(2, 5) == 1
    ((seconds, seed),) = asked
    assert (seconds, seed) == (pytest.approx(120, abs=5), 5)  # the other took none of its share
    said = capsys.readouterr()
    assert "kills: 3" in said.out
    assert "failed: breaks (seed 5)" in said.out
    assert "Fault: lost a row" in said.err
    monkeypatch.setattr(box, "parts", lambda: {"holds": (holds, 1.0)})
    assert box.main(2, 5) == 0


@pytest.mark.parametrize(
    ("at", "part"),
    [(0, ("start", 0)), (2.5, ("start", 2.5)), (3, ("training", 0)), (9, ("export", 2))],
)
def test_a_moment_of_a_run_is_in_the_part_that_began_last(
    at: float, part: tuple[str, float]
) -> None:
    whole = Undisturbed({}, 10.0, {"start": 0.0, "training": 3.0, "export": 7.0})
    assert whole.part(at) == part


def test_every_part_has_its_share() -> None:
    found = box.parts()
    assert {"kills", "races", "disk"} <= set(found)
    assert sum(share for _, share in found.values()) == pytest.approx(1)
    with pytest.raises(Fault, match="no"):
        expect(False, "no")
