"""The machine's description: threads that may really be used, and a key that sees what matters."""

import os

import pytest

from harness import environment as machine
from harness.environment import environment, environment_key, usable_threads


def test_threads_follow_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert usable_threads() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_threads() == 8


@pytest.mark.parametrize(("quota", "threads"), [(1.0, 1), (0.5, 1), (2.5, 2), (99.0, 8), (None, 8)])
def test_threads_follow_the_quota(monkeypatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_cpu_quota", lambda: quota)
    assert usable_threads() == threads


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("200000 100000", 2.0), ("50000 100000", 0.5)]
)
def test_quota_of_control_group_2(monkeypatch, text: str, quota: float | None) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: text if path.endswith("cpu.max") else None)
    assert machine._cpu_quota() == quota


def test_quota_of_control_group_1(monkeypatch) -> None:
    files = {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path.rsplit("/", 1)[1]))
    assert machine._cpu_quota() == 1.5
    files["cpu.cfs_quota_us"] = "-1"
    assert machine._cpu_quota() is None


def test_the_key_sees_speed_not_the_commit() -> None:
    facts = environment()
    assert facts["key"] == environment_key(facts)
    assert environment_key({**facts, "commit": "other", "kernel": "other"}) == facts["key"]
    assert environment_key({**facts, "threads": 99}) != facts["key"]
    assert environment_key({**facts, "packages": {}}) != facts["key"]
