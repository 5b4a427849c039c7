"""Fixtures of the speed gates, and the count of what was really measured."""

import os
from collections.abc import Callable, Generator
from typing import Any

import pytest
from bench.cases import EXPECTED, SHADOW, Bench, inconclusive, measured_ids

from harness.outcomes import Outcome, code_of, told_code
from harness.store import default_store


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench(default_store())


@pytest.fixture
def counted(benchmark) -> Callable[..., Any]:
    """``counted(name, time, *arguments)``: one timed comparison, counted only if it really ran."""
    if benchmark.disabled or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("not measured: benchmarks are disabled, or others run beside this one")

    def run(name: str, time: Callable[..., Any], *arguments: object) -> Any:
        found = benchmark.pedantic(time, args=arguments, rounds=1, iterations=1)
        measured_ids.add(name)
        return found

    return run


def outcomes(status: int) -> list[Outcome]:
    """How the session went, in the gates' words; ``status`` is pytest's own exit status."""
    found: list[Outcome] = ["passed"] * len(measured_ids)
    found += ["failed"] * (status == pytest.ExitCode.TESTS_FAILED)
    found += ["not measured"] * len(EXPECTED - measured_ids)
    return found + ["inconclusive"] * len(inconclusive)


BROKEN = (
    *(pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR),
    pytest.ExitCode.USAGE_ERROR,
)
"""pytest's own, which mean something else to the gates: they become 2."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
    """Count what was measured, after everything else was told; the last line is the exit code."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.option.collectonly or reporter is None:
        return result
    reporter.write_line(f"\n{len(measured_ids)} of {len(EXPECTED)} comparisons were measured")
    for name in sorted(EXPECTED - measured_ids):
        reporter.write_line(f"not measured: {name}")
    for name in inconclusive:
        reporter.write_line(f"inconclusive: {name}")
    code = 2 if exitstatus in BROKEN else code_of(outcomes(exitstatus))
    session.exitstatus = 0 if SHADOW and code != 2 else code
    told = (
        f"{told_code(code)} without HARNESS_GATE_SHADOW; with it 0" if SHADOW else told_code(code)
    )
    reporter.write_line(told)
    return result
