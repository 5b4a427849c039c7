"""Profiles: those that are there, and YAML files that change one; every mistake is told."""

from pathlib import Path

import pytest

from harness.errors import HarnessError, RecipeError
from harness.profile import PROFILES, SCENARIOS, Bench, Load, Profile, Spread, find_profile


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_profiles_get_longer() -> None:
    assert list(PROFILES) == ["ci", "default", "publish"]
    for name in ("min_seconds", "max_seconds", "min_pairs", "max_pairs"):
        values = [getattr(profile.protocol, name) for profile in PROFILES.values()]
        assert values == sorted(values)
    assert [p.requests >= 459 for p in PROFILES.values()] == [True] * 3  # the fewest that prove p99
    assert find_profile("ci") is PROFILES["ci"]


def test_every_profile_asks_for_every_scenario() -> None:
    assert all(set(profile.load.scenarios) == set(SCENARIOS) for profile in PROFILES.values())


def test_a_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    text = """
schema_version: 1
name: checkout
base: ci
load: {sla: 0.01, candidates: {low: 100, high: 700, mean: 270}}
protocol: {max_pairs: 30}
price_per_hour: 0.1
currency: EUR
"""
    found = find_profile(written(tmp_path, text))
    ci = PROFILES["ci"]
    assert found.load == ci.load.model_copy(
        update={"sla": 0.01, "candidates": Spread(low=100, high=700, mean=270)}
    )
    assert found.protocol == ci.protocol.model_copy(update={"max_pairs": 30})
    assert (found.name, found.price_per_hour, found.currency) == ("checkout", 0.1, "EUR")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x", "schema_version"),
        ("schema_version: 1\nname: x\nlaod: {}", "did you mean 'load'"),
        ("schema_version: 1\nname: x\nload: {sla: -1}", "load.sla"),
        ("schema_version: 1\nname: x\nload: {batches: [1, 1]}", "each once"),
        ("schema_version: 1\nname: x\nload: {scenarios: [singel]}", "load.scenarios"),
        (f"schema_version: 1\nname: x\nload: {{batches: [{2**53}]}}", "equal to 1048576, got"),
        (
            "schema_version: 1\nname: x\nload: {candidates: {low: 1, high: 2000000, mean: 5}}",
            "load.candidates.spread.high: input should be less",
        ),
        (
            f"schema_version: 1\nname: x\nload: {{candidates: {2**53}}}",
            "load.candidates.number: input should be less",
        ),
        ("schema_version: 1\nname: x\nbase: fast", "base"),
        (
            "schema_version: 1\nname: x\nload: {candidates: {low: 9, high: 3, mean: 5}}",
            "low < mean",
        ),
        ("schema_version: 1\nname: x\nrequests: 100", "459"),
        ("- 1", "expected a mapping"),
    ],
)
def test_mistakes_in_a_file_are_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml") as caught:
        find_profile(written(tmp_path, text))
    assert said in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r"--profile 'defalt'.*did you mean 'default'"):
        find_profile("defalt")


def test_a_profile_that_can_prove_no_tail_is_refused() -> None:
    with pytest.raises(ValueError, match="459"):
        Profile(requests=458)
    assert Profile(requests=458, load=Load(scenarios=("single",))).requests == 458


def test_a_recipe_changes_the_load_it_is_measured_under() -> None:
    bench = Bench(sla=0.05, scenarios=("single", "server"))
    load = bench.applied(PROFILES["ci"].load)
    assert (load.sla, load.scenarios) == (0.05, ("single", "server"))
    assert load.batches == PROFILES["ci"].load.batches
    assert Bench().applied(load) == load
    with pytest.raises(ValueError, match="each once"):
        Bench(batches=(8, 8))


def test_how_long_work_may_be_silent_is_a_profiles(tmp_path: Path) -> None:
    text = (
        "schema_version: 1\nname: mine\nmaking: {silent_seconds: 60}\nscoring: {call_seconds: 9}\n"
    )
    found = find_profile(written(tmp_path, text))
    assert (found.making.silent_seconds, found.scoring.call_seconds) == (60, 9)
    assert found.making.stage_seconds == PROFILES["default"].making.stage_seconds
    with pytest.raises(RecipeError, match="did you mean 'silent_seconds'"):
        find_profile(written(tmp_path, text.replace("silent_seconds", "silence_seconds")))
