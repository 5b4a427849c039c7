"""Calibrating with a made-up clock: what is counted, what is confirmed, what is planted."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_times import point

from harness.artifact import ModelSpec
from harness.baseline import Trained
from harness.engines.base import Probe
from harness.errors import DataError
from harness.gates import calibrating
from harness.gates.calibrating import SLOWDOWN, calibrate, four_arms, judged_session
from harness.store import Store
from harness.suites.regression import POINTS

CALL = 1e-3


def at_speed(arms, feeds, factor=None):
    """Every point with each arm at its planted speed, times ``factor`` of the arm's name."""
    factors = factor or {}
    times = {arm: CALL * arm.slowdown * factors.get(arm.name, 1.0) for arm in arms}
    return {at: point(times, at) for at in feeds}


@pytest.fixture
def prepared(tiny, tiny_training, save_artifact, monkeypatch):
    """Calibration of a small model that is already made."""
    artifact = save_artifact(ModelSpec("mlp", {"dim": 8, "widths": [32, 16]}))
    trained = Trained(calibrating.BASELINE, tiny, artifact, tiny_training, {}, Path())
    made = {"artifact": artifact, "reason": None}
    monkeypatch.setattr(calibrating, "train_baseline", lambda *a, **k: trained)
    monkeypatch.setattr(calibrating, "make", lambda variant, *a: replace(variant, **made))
    monkeypatch.setattr(calibrating, "probe_engine", lambda name: Probe("ok", "fine"))
    return made


def calibrated(tmp_path, count, time):
    said = []
    store = Store(tmp_path / "store")
    found = calibrate(count, store, lambda n: lambda label, share: None, say=said.append, time=time)
    return found, said


def test_every_session_has_both_comparisons_at_both_points(prepared, tmp_path) -> None:
    calls = []

    def time(arms, feeds, seed):
        calls.append((tuple(arm.name for arm in arms), tuple(feeds), seed))
        assert all(path.is_file() for files in feeds.values() for path in files.values())
        return at_speed(arms, feeds)

    found, said = calibrated(tmp_path, 3, time)
    assert [(arms, at) for arms, at, _ in calls] == [
        (("reference", "copy", "same", "planted"), POINTS)
    ] * 3
    assert len({seed for _, _, seed in calls}) == 3
    counts = {name: (share.count, share.n) for name, share in found.shares()["all"].items()}
    assert counts["false alarms"] == (0, 6)
    assert counts["detections"] == (6, 6)
    assert counts["detections, failed alone"] == (0, 6), "1.08 isn't over 1.08"
    assert found.call_seconds["64x1"] == pytest.approx(CALL, rel=0.01)
    assert said[-1] == "session 3 of 3: 0 false alarms of 6, 6 detections of 6 so far"


def test_a_failure_is_confirmed_by_three_fresh_arms_at_its_point(tmp_path) -> None:
    arms = four_arms("ort-cpu", tmp_path)
    again = []

    def once_more(few, at):
        again.append((tuple(arm.name for arm in few), at))
        return at_speed(few, {at: {}})[at]

    first = at_speed(arms, dict.fromkeys(POINTS), {"same": 1.5, "planted": 1.5})
    trials = judged_session(0, first, arms, once_more)
    assert [t.first.outcome for t in trials] == ["failed"] * 4
    assert [(t.kind, t.final.outcome) for t in trials[:2]] == [
        ("same", "passed"),
        ("planted", "warning"),
    ]
    assert again[:2] == [
        (("reference", "copy", "same"), POINTS[0]),
        (("reference", "copy", "planted"), POINTS[0]),
    ]


def test_a_gate_that_sees_nothing_has_no_detections(prepared, tmp_path) -> None:
    """The control of the calibration itself: with a blind clock it must count 0."""
    blind, _ = calibrated(tmp_path, 2, lambda a, f, s: at_speed(a, f, {"planted": 1 / SLOWDOWN}))
    assert blind.shares()["all"]["detections"].count == 0
    jumpy, _ = calibrated(tmp_path, 2, lambda a, f, s: at_speed(a, f, {"same": 1.2}))
    assert jumpy.shares()["all"]["false alarms, failed alone"].count == 4


def test_when_no_arm_lives_nothing_was_measured(prepared, tmp_path) -> None:
    found, _ = calibrated(
        tmp_path, 1, lambda a, f, s: {at: point(dict.fromkeys(a), at) for at in f}
    )
    assert not found.measured
    assert {trial.final.outcome for trial in found.trials} == {"inconclusive"}
    assert found.shares()["all"]["detections"].count == 0


def test_a_model_that_cant_be_made_is_an_error(prepared, tmp_path, monkeypatch) -> None:
    prepared.update(artifact=None, reason="no export")
    with pytest.raises(DataError, match="no export"):
        calibrated(tmp_path, 1, None)
    monkeypatch.setattr(calibrating, "probe_engine", lambda name: Probe("no_package", "none"))
    with pytest.raises(DataError, match="none of ort-cpu, torch-cpu can run here"):
        calibrated(tmp_path, 1, None)
