"""What ``gate`` says and how it ends: kinds of folders, shadow, exit codes, the count."""

import made_rows
import pytest
from made_rows import row, timed

from harness.errors import DataError, HarnessError
from harness.gates import calibrating, interleaved, verdicts
from harness.gates.builds import Build, write_build
from harness.gates.calibration import Calibration, Trial
from harness.gates.rules import GateResult
from harness.suites.regression import Regression


def no_task(name):
    return lambda label, share: None


@pytest.fixture
def folders(tmp_path):
    """Two runs (the new one slower) and two builds."""
    slow = timed(ratio=0.16, ratio_low=0.15, ratio_high=0.17)
    made_rows.save(tmp_path / "run", [slow, row()])
    made_rows.save(tmp_path / "earlier", [timed(), row()])
    for name in ("build", "base"):
        (tmp_path / name).mkdir()
        write_build(Build(tmp_path / name, {"cpu": "one"}, {}, {}, {}))
    return tmp_path


def test_the_last_lines_are_the_count_and_the_code(folders) -> None:
    lines, code = verdicts.gate(folders / "run", folders / "earlier", no_task)
    assert code == 1
    assert lines[-2:] == ["2 comparisons made: 1 passed, 1 failed", "exit code 1: failed"]
    assert lines[0].startswith("gate failed: int8 on ort-cpu: sweep latency_p50")


def test_shadow_judges_all_the_same_and_ends_with_0(folders) -> None:
    lines, code = verdicts.gate(folders / "run", folders / "earlier", no_task, shadow=True)
    assert code == 0
    assert lines[0].startswith("gate shadow failed: int8 on ort-cpu")
    assert lines[-2:] == [
        "2 comparisons made: 1 passed, 1 failed in shadow",
        "exit code 1: failed without --shadow; with it 0",
    ]


def test_without_a_baseline_it_is_4(folders, tmp_path) -> None:
    for folder in ("run", "build"):
        lines, code = verdicts.gate(folders / folder, tmp_path / "none", no_task)
        assert code == 4
        assert "no baseline, nothing compared" in lines[0]
        assert lines[-2] == "0 comparisons made: 1 not measured"


@pytest.mark.parametrize("pair", [("run", "build"), ("build", "run")])
def test_a_run_and_a_build_are_not_compared(folders, pair) -> None:
    with pytest.raises(HarnessError, match="give two runs or two builds"):
        verdicts.gate(*(folders / name for name in pair), no_task)


def test_a_build_alone_has_no_gates(folders) -> None:
    with pytest.raises(HarnessError, match="add --against BASE"):
        verdicts.gate(folders / "build", None, no_task)


def test_two_builds_are_measured(folders, monkeypatch) -> None:
    seen = []

    def measured(head, base, task):
        seen.append((head.name, base.name))
        return [GateResult("fp32", None, "inconclusive", "noise")]

    monkeypatch.setattr(interleaved, "gate_builds", measured)
    lines, code = verdicts.gate(folders / "build", folders / "base", no_task)
    assert (code, seen) == (3, [("build", "base")])
    assert lines[-1] == "exit code 3: inconclusive"


def calibration(outcome, median):
    one = Regression(outcome, p10=median, median=median, reason="why")
    return Calibration((Trial(0, "64x1", "same", one, one),), 1, "model", 1.08, {})


def test_a_calibration_ends_with_0_when_it_measured(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(calibrating, "calibrate", lambda *a, **k: calibration("passed", 1.0))
    lines, code = verdicts.calibrate(1, tmp_path / "out", None, no_task, say=print)
    assert code == 0
    assert lines[-1] == f"calibration: {tmp_path / 'out' / 'calibration.md'}"
    assert (tmp_path / "out" / "calibration.json").is_file()
    lines, code = verdicts.calibrate(1, None, None, no_task, say=print)
    assert (code, "calibration:" in lines[-1]) == (0, False)


def test_a_calibration_without_figures_ends_with_4_and_writes_nothing(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(calibrating, "calibrate", lambda *a, **k: calibration("failed", None))
    lines, code = verdicts.calibrate(1, tmp_path / "out", None, no_task, say=print)
    assert (code, lines[-1]) == (4, "exit code 4: not measured")
    assert "nothing was measured: why" in lines
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bad_folder_is_told_before_anything_is_measured(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(calibrating, "calibrate", lambda *a, **k: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be written"):
        verdicts.calibrate(1, tmp_path / "file", None, no_task, say=print)
