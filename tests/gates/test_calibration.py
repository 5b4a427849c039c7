"""What a calibration found, worked by hand: counts, exact intervals, the spread of A/A."""

import json

import pytest

from harness.errors import DataError
from harness.gates.calibration import (
    Calibration,
    Trial,
    claim,
    counted,
    facts,
    lines,
    page,
    share_of,
    write,
)
from harness.suites.regression import Regression


def trial(kind, outcome, p10=1.0, *, point="64x1", session=0):
    first = Regression(outcome, p10=p10, median=p10, low=p10, high=p10, aa=1.0, pairs=40)
    return Trial(session, point, kind, first, first)


def found(*trials, asked=4):
    return Calibration(trials, asked, "model on ort-cpu", 1.08, {"64x1": 0.001})


def test_intervals_are_the_exact_ones() -> None:
    """With no success of n the upper bound solves (1 - p)^n = 2.5 %; with all, p^n = 2.5 %."""
    none, every = share_of(0, 30), share_of(30, 30)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert every.low == pytest.approx(0.025 ** (1 / 30))
    assert str(none) == "0 of 30 = 0.0% [0.0%, 11.6%]"


def test_alarms_and_detections_are_counted_by_kind_and_point() -> None:
    shares = found(
        trial("same", "passed"),
        trial("same", "warning"),
        trial("same", "failed", point="1x256"),
        trial("same", "inconclusive", point="1x256"),
        trial("planted", "failed"),
        trial("planted", "warning"),
        trial("planted", "passed", point="1x256"),
    ).shares()
    told = {place: {k: (s.count, s.n) for k, s in v.items()} for place, v in shares.items()}
    assert told["all"] == {
        "false alarms": (2, 4),
        "false alarms, failed alone": (1, 4),
        "inconclusive A/A": (1, 4),
        "detections": (2, 3),
        "detections, failed alone": (1, 3),
        "inconclusive planted": (0, 3),
    }
    assert told["64x1"]["false alarms"] == (1, 2)
    assert told["1x256"]["detections"] == (0, 1)


def test_a_planted_arm_that_crashed_is_no_detection() -> None:
    crash = Regression("failed", reason="crashed")
    assert counted(Trial(0, "64x1", "planted", crash, crash)) == "inconclusive"
    assert counted(Trial(0, "64x1", "same", crash, crash)) == "failed"


def test_the_spread_of_aa_is_that_of_first_measurements() -> None:
    same = [trial("same", "passed", p10) for p10 in (1.0, 0.995, 1.02, 1.009)]
    lost = Trial(0, "64x1", "same", Regression("inconclusive", reason="x"), same[0].final)
    spread = found(*same, lost, trial("planted", "failed", 1.09)).spread()
    assert spread["n"] == 4
    assert spread["median"] == pytest.approx(0.007)
    assert spread["max"] == pytest.approx(0.02)
    assert spread["within_1_percent"] == 0.75
    assert found().spread() == {}


def test_text_and_files_hold_every_rate(tmp_path) -> None:
    result = found(trial("same", "passed", 1.004), trial("planted", "failed", 1.09))
    told = lines(result)
    assert "all points: false alarms: 0 of 1 = 0.0% [0.0%, 97.5%]" in told
    assert "all points: detections: 1 of 1 = 100.0% [2.5%, 100.0%]" in told
    assert "median 0.40%" in told[-1]
    out = tmp_path / "new" / "out"
    claim(out)
    write(result, out)
    content = json.loads((out / "calibration.json").read_text())
    assert content == json.loads(json.dumps(facts(result)))
    assert content["trials"][0]["first"]["p10"] == 1.004
    assert content["environment"]["key"]
    assert content["protocol"]["max_pairs"] == 40
    assert (out / "calibration.md").read_text() == page(result)
    assert "| all | detections | 1 | 1 | 100.0% | 2.5% to 100.0% |" in page(result)
    assert sorted(path.name for path in out.iterdir()) == ["calibration.json", "calibration.md"]


def test_nothing_measured_is_known() -> None:
    lost = Regression("inconclusive", reason="crashed")
    assert not found(Trial(0, "64x1", "same", lost, lost)).measured
    assert not found().measured
    assert lines(found()) == []
    assert found(trial("same", "passed")).measured


def test_a_folder_that_cant_be_written_is_refused_at_once(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be written"):
        claim(tmp_path / "file")
