"""Speed gates: each served artifact against its reference, in one job, with controls.

``HARNESS_PLANTED_SLOWDOWN=1.25`` slows every candidate down; the gates must then fail.
"""

import pytest
from bench.cases import CASES, PLANTED, RECIPES, SPEEDUPS, Bench, case_id, inconclusive

from harness.gates.interleaved import planted_seen, same_passed
from harness.outcomes import aa_trouble
from harness.recipe import GateSpec, Recipe
from harness.suites.arms import Arm
from harness.suites.points import Point
from harness.suites.regression import (
    CHANCES,
    CONTROL,
    POINTS,
    Regression,
    judge_regression,
    rivals,
    settled,
)


def same_model(bench: Bench, recipe: Recipe, engine: str, slowdown: float) -> tuple[Arm, ...]:
    """The reference, its second copy, and the candidate."""
    folder = bench.artifact(recipe, engine).folder
    return rivals(engine, folder, folder, slowdown=slowdown)


def judged(measured) -> Regression:
    arms = {arm.name: arm for arm in measured.arms}
    return judge_regression(measured, arms["candidate"], arms["reference"])


def noted(benchmark, found: Regression) -> None:
    for name in ("outcome", "p10", "median", "low", "high", "aa", "pairs"):
        benchmark.extra_info[name] = getattr(found, name)


@pytest.mark.parametrize(
    ("recipe", "engine", "point"), CASES, ids=[case_id(*case) for case in CASES]
)
def test_no_slower_than_its_reference(
    bench: Bench, benchmark, counted, tmp_path, recipe: Recipe, engine: str, point: Point
) -> None:
    arms = same_model(bench, recipe, engine, PLANTED)
    found = judged(counted(case_id(recipe, engine, point), bench.time, arms, point, tmp_path))
    found = settled(found, lambda: judged(bench.time(arms, point, tmp_path)))
    noted(benchmark, found)
    print(f"{case_id(recipe, engine, point)}: {found}")
    if found.outcome == "inconclusive":
        inconclusive.append(case_id(recipe, engine, point))
        pytest.skip(str(found))
    assert found.outcome != "failed", str(found)


@pytest.mark.parametrize(
    ("recipe", "gate"), SPEEDUPS, ids=[f"{r.name}-{g.metric}" for r, g in SPEEDUPS]
)
def test_as_fast_as_its_recipe_says(
    bench: Bench, benchmark, counted, tmp_path, recipe: Recipe, gate: GateSpec
) -> None:
    assert gate.min_speedup is not None
    plain = next(recipe for recipe in RECIPES if not recipe.stages)
    engine = gate.target or "ort-cpu"
    folders = [bench.artifact(one, engine).folder for one in (plain, recipe)]
    arms = rivals(engine, *folders, slowdown=PLANTED)
    point = next(p for p in POINTS if p.candidates == (gate.candidates or 1))
    name = f"{recipe.name}:{gate.metric}"
    measured = counted(name, bench.time, arms, point, tmp_path)
    for _ in range(CHANCES):
        trouble = aa_trouble(measured.aa_ratio(arms[0]), len(measured.series["candidate"].wall))
        if trouble is None:
            break
        measured = bench.time(arms, point, tmp_path)
    speedup = measured.speedup(arms[2], arms[0])
    benchmark.extra_info.update(speedup=speedup.value, low=speedup.low, high=speedup.high)
    print(f"{recipe.name}: {speedup.value:.2f} times fp32 [{speedup.low:.2f}, {speedup.high:.2f}]")
    if trouble:
        inconclusive.append(name)
        pytest.skip(trouble)
    assert speedup.low >= gate.min_speedup


def test_control_the_generator_keeps_up(bench: Bench, benchmark, counted, tmp_path) -> None:
    """An open loop's load generator must cost nothing beside a model: here it has a null one."""
    rate = counted("control:generator", bench.generator_rate, RECIPES[0], "ort-cpu", tmp_path)
    benchmark.extra_info["requests_per_second"] = rate
    print(f"control:generator: {rate:,.0f} requests/s with a null model")
    assert rate >= 50_000


@pytest.mark.parametrize(
    ("name", "slowdown", "judge"),
    [("control:planted", CONTROL, planted_seen), ("control:same", 1.0, same_passed)],
)
def test_control(bench: Bench, benchmark, counted, tmp_path, name, slowdown, judge) -> None:
    arms, point = same_model(bench, RECIPES[0], "ort-cpu", slowdown), POINTS[-1]
    found = judged(counted(name, bench.time, arms, point, tmp_path))
    found = settled(found, lambda: judged(bench.time(arms, point, tmp_path)))
    noted(benchmark, found)
    outcome, text = judge(found)
    print(f"{name}: {text} ({found})")
    if outcome == "inconclusive":
        inconclusive.append(name)
        pytest.skip(text)
    assert outcome == "passed", f"{text}: {found}"
