"""Fixtures of the speed gates, and the count of what was really measured."""

import os
from collections.abc import Callable

import pytest
from bench.cases import EXPECTED, RECIPES, Bench, inconclusive, measured_ids, silent

from harness.baseline import train_baseline
from harness.environment import usable_threads
from harness.store import default_store
from harness.suites.paired import Measured


@pytest.fixture(scope="session")
def bench() -> Bench:
    store = default_store()
    spec = RECIPES[0].baseline
    return Bench(train_baseline(spec, store, threads=usable_threads(), progress=silent), store)


@pytest.fixture
def counted(benchmark) -> Callable[..., Measured]:
    """``counted(name, time, *arguments)``: one timed comparison, counted only if it really ran."""

    def run(name: str, time: Callable[..., Measured], *arguments: object) -> Measured:
        found = benchmark.pedantic(time, args=arguments, rounds=1, iterations=1)
        if not benchmark.disabled and "PYTEST_XDIST_WORKER" not in os.environ:
            measured_ids.add(name)
        return found

    return run


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    missing = sorted(EXPECTED - measured_ids)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.write_line(f"\n{len(measured_ids)} of {len(EXPECTED)} comparisons were measured")
        for name in missing:
            reporter.write_line(f"not measured: {name}")
        for name in inconclusive:
            reporter.write_line(f"inconclusive: {name}")
    if exitstatus == 0 and not session.config.option.collectonly:
        session.exitstatus = 4 if missing else 3 if inconclusive else 0
