"""Host health: counters of made-up trees, shares worked out by hand, and what counts as noisy."""

from pathlib import Path

import pytest

from harness.results import Row
from harness.suites.health import (
    HEAT_FILES,
    Health,
    Sample,
    health,
    health_rows,
    mhz,
    noise,
    point_noise,
    sample,
)

QUIET = Health(0.02, pressure=0.0, stolen=0, ticks=4, load=1.0, throttled=0.0, quota_stops=0)
STAT = "cpu  100 2 30 400 5 6 7 50 90 9\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n"
CPU_STAT_1 = "nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000\n"
CPU_STAT_2 = "usage_usec 77\nnr_periods 9\nnr_throttled 4\nthrottled_usec 1500000\n"


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that tells everything, with control groups of version 2."""
    some = "some avg10=1.00 avg60=0.50 avg300=0.10 total=3000000\n"
    put(tmp_path, "proc/pressure/cpu", some + "full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n")
    put(tmp_path, "proc/stat", STAT)
    put(tmp_path, "proc/loadavg", "0.25 0.50 0.75 2/90 11824\n")
    put(tmp_path, "proc/self/cgroup", "0::/jobs/one\n")
    put(tmp_path, "sys/fs/cgroup/jobs/one/cpu.stat", CPU_STAT_2)
    for cpu, count in enumerate((1, 2)):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        put(tmp_path, f"{folder}/thermal_throttle/core_throttle_count", f"{count}\n")
        put(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", f"{1_200_000 + cpu * 500_000}\n")
    return tmp_path


# Samples.


def test_every_counter_of_a_machine_that_tells_all(root: Path) -> None:
    found = sample(root)
    assert found.waited == 3.0  # of "some", not of "full"
    assert found.stolen == 50
    assert found.ticks == 100 + 2 + 30 + 400 + 5 + 6 + 7 + 50  # guests are in the first already
    assert found.load == 0.25
    assert (found.throttled, found.quota_stops) == (1.5, 4)
    assert found.heat_stops == 3
    assert mhz(root) == 1700.0


def test_a_machine_that_tells_nothing_has_no_zeros(tmp_path: Path) -> None:
    found = sample(tmp_path)
    assert found == Sample(found.seconds)
    assert {found.waited, found.stolen, found.ticks, found.load, found.throttled} == {None}
    assert mhz(tmp_path) is None
    after = Sample(found.seconds + 1)
    nothing = health(found, after)
    assert nothing == Health(after.seconds - found.seconds)
    assert (nothing.steal, nothing.throttle_events, noise(nothing)) == (None, None, None)


@pytest.mark.parametrize("garbage", ["", "some avg10=x\n", "cpu one two\n", "cpu  1 2 3\n"])
def test_files_in_another_form_tell_nothing(tmp_path: Path, garbage: str) -> None:
    for path in ("proc/pressure/cpu", "proc/stat", "proc/loadavg", "proc/cpuinfo"):
        put(tmp_path, path, garbage)
    found = sample(tmp_path)
    assert found == Sample(found.seconds)
    assert mhz(tmp_path) is None


@pytest.mark.parametrize(
    ("groups", "place", "text", "expected"),
    [
        ("0::/jobs/one\n", "jobs/one", CPU_STAT_2, (1.5, 4)),
        ("0::/jobs/one\n", "", CPU_STAT_2, (1.5, 4)),  # a container's own top
        ("0::/jobs/one\n", "jobs", CPU_STAT_2, (1.5, 4)),  # the quota is on the group above
        ("4:memory:/m\n1:cpu,cpuacct:/jobs\n", "cpu/jobs", CPU_STAT_1, (2.5, 3)),
        ("1:cpu,cpuacct:/jobs\n", "cpu,cpuacct/jobs", CPU_STAT_1, (2.5, 3)),
        ("1:cpu:/jobs\n0::/\n", "cpu", CPU_STAT_1, (2.5, 3)),
        ("0::/jobs\n", "other", CPU_STAT_2, (None, None)),
        ("0::/jobs\n", "jobs", "usage_usec 77\n", (None, None)),  # the controller is off
        ("0::/jobs\n", "jobs", "nr_throttled 3\n", (None, None)),
    ],
)
def test_quotas_of_both_versions_of_control_groups(
    tmp_path: Path, groups: str, place: str, text: str, expected: tuple[float | None, int | None]
) -> None:
    put(tmp_path, "proc/self/cgroup", groups)
    put(tmp_path, f"sys/fs/cgroup/{place}/cpu.stat", text)
    found = sample(tmp_path)
    assert (found.throttled, found.quota_stops) == expected


def test_stops_of_the_group_and_of_those_above_add_up(root: Path) -> None:
    put(root, "sys/fs/cgroup/jobs/cpu.stat", "nr_throttled 10\nthrottled_usec 250000\n")
    put(root, "sys/fs/cgroup/cpu.stat", "usage_usec 5\n")
    assert (sample(root).throttled, sample(root).quota_stops) == (1.75, 14)


def test_a_core_that_stops_telling_makes_heat_unknown(root: Path) -> None:
    assert sample(root).heat_stops == 3
    (root / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").unlink()
    assert sample(root).heat_stops is None


def test_heat_is_read_of_the_last_cores_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for cpu in range(HEAT_FILES + 3):
        put(
            tmp_path,
            f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count",
            "100" if cpu < 3 else "1",
        )
    assert sample(tmp_path).heat_stops == HEAT_FILES


def test_mhz_of_a_machine_without_cpufreq(tmp_path: Path) -> None:
    told = "processor\t: 0\ncpu MHz\t\t: 2596.138\n\nprocessor\t: 1\ncpu MHz\t\t: 2700.500\n"
    put(tmp_path, "proc/cpuinfo", told)
    assert mhz(tmp_path) == 2700.5


def test_this_machine_can_be_sampled_twice() -> None:
    before, after = sample(), sample()
    assert after.seconds > before.seconds
    assert health(before, after).seconds > 0


# Differences.


def test_shares_of_a_block_worked_by_hand() -> None:
    before = Sample(
        10.0, waited=5.0, stolen=7, ticks=1000, load=3.0, throttled=1.0, quota_stops=2, heat_stops=5
    )
    after = Sample(
        10.5, waited=5.1, stolen=8, ticks=1100, load=2.0, throttled=1.0, quota_stops=2, heat_stops=6
    )
    found = health(before, after, switches=4)
    assert found.seconds == 0.5
    assert found.pressure == pytest.approx(0.1 / 0.5)
    assert (found.stolen, found.ticks, found.steal) == (1, 100, 0.01)
    assert (found.load, found.throttled, found.quota_stops, found.heat_stops) == (2.0, 0.0, 0, 1)
    assert (found.throttle_events, found.switches) == (1, 4)


def test_pressure_is_never_more_than_the_whole_time() -> None:
    found = health(Sample(0.0, waited=0.0), Sample(0.010, waited=0.0101))
    assert found.pressure == 1.0


@pytest.mark.parametrize(
    "name", ["waited", "stolen", "ticks", "throttled", "quota_stops", "heat_stops"]
)
@pytest.mark.parametrize(("before", "after"), [(5, 4), (None, 4), (5, None)])
def test_a_counter_that_is_missing_or_runs_backwards_is_unknown(
    name: str, before: int | None, after: int | None
) -> None:
    found = health(Sample(0.0, **{name: before}), Sample(1.0, **{name: after}))
    assert found == Health(1.0)
    assert health(Sample(0.0, **{name: 4}), Sample(1.0, **{name: 5})) != Health(1.0)


def test_no_time_has_no_share() -> None:
    found = health(Sample(1.0, waited=1.0), Sample(1.0, waited=1.0))
    assert found.pressure is None
    assert Health(0.001, stolen=0, ticks=0).steal is None


# Blocks.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pressure": 0.071}, "processes waited for a CPU in 7.1 % of the time"),
        ({"pressure": 0.071, "switches": 1}, "processes waited for a CPU in 7.1 % of the time"),
        ({"pressure": None, "switches": 3}, "the worker lost its CPU 3 times"),
        ({"throttled": 0.012}, "the CPU quota stopped the worker (0.012 s)"),
        ({"quota_stops": 1}, "the CPU quota stopped the worker (0.000 s)"),
        ({"heat_stops": 2}, "cores were slowed down for heat (2 times)"),
        ({"stolen": 2, "ticks": 4}, "the hypervisor took 50.0 % of the CPUs' time"),
        ({"stolen": 4, "ticks": 200}, "the hypervisor took 2.0 % of the CPUs' time"),
    ],
)
def test_why_a_block_is_noisy(changes: dict[str, float], said: str) -> None:
    assert noise(Health(**{**fields(QUIET), **changes})) == said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pressure": 0.05},
        {"pressure": 0.30, "switches": 0},  # others waited for the other CPU
        {"pressure": None, "switches": 2},
        {"pressure": 0.0, "switches": 50},
        {"stolen": 1, "ticks": 4},  # one tick may have been stolen before the block
        {"stolen": 1, "ticks": 0},
        {"stolen": 2, "ticks": 100},
        {"load": 64.0},
        {"throttled": None, "quota_stops": None, "heat_stops": 0, "pressure": None},
    ],
)
def test_what_is_no_noise(changes: dict[str, float]) -> None:
    assert noise(Health(**{**fields(QUIET), **changes})) is None


def fields(health: Health) -> dict[str, float]:
    return {name: getattr(health, name) for name in Health.__dataclass_fields__}


# Points.


def busy(pressure: float = 0.2) -> Health:
    return Health(0.02, pressure=pressure, stolen=0, ticks=4)


def test_one_block_in_four_may_be_noisy() -> None:
    hot = Health(0.02, heat_stops=1)
    assert point_noise([*[QUIET] * 15, *[busy()] * 4, hot], [2600.0]) is None
    assert point_noise([*[QUIET] * 14, *[busy()] * 5, hot], [2600.0]) == (
        "6 of 20 blocks were disturbed, most often by other processes"
    )


def test_stolen_time_of_blocks_too_short_to_tell_adds_up() -> None:
    stolen = [Health(0.02, stolen=1, ticks=4)] * 2
    assert [noise(health) for health in stolen] == [None, None]
    assert point_noise([*[QUIET] * 23, *stolen], []) is None  # 2 of 100: one of them is proven
    assert point_noise([*[QUIET] * 22, *stolen, stolen[0]], []) == (
        "the hypervisor took 3.0 % of the CPUs' time"
    )
    assert point_noise([*[QUIET] * 97, *stolen, stolen[0]], []) is None  # 3 of 400


def test_a_clock_that_varies_by_more_than_a_tenth() -> None:
    assert point_noise([QUIET], [2000.0, None, 2200.0]) is None
    assert point_noise([QUIET], [2000.0, 2201.0]) == "the CPU's clock varied from 2000 to 2201 MHz"
    assert point_noise([QUIET], [None]) is None
    assert point_noise([], []) is None


# Rows.

COMMON = {"recipe": "int8", "baseline": "b", "target": "cpu", "engine": "ort-cpu", "seed": 3}


def by_metric(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


def test_rows_of_the_machine_worked_by_hand() -> None:
    healths = [
        Health(0.02, pressure=0.0, stolen=0, ticks=4, load=1.0, throttled=0.0),
        Health(0.02, pressure=0.02, stolen=1, ticks=4, load=3.0, throttled=0.5),
        Health(0.02, pressure=0.20, stolen=None, ticks=4, load=2.0, throttled=0.25),
    ]
    rows = by_metric(health_rows(COMMON, 2, healths, [2600.0, None, 2500.0]))
    found = {name: (row.value, row.unit, row.n) for name, row in rows.items()}
    assert found == {
        "noisy_blocks": (pytest.approx(2 / 3), "share", 3),
        "pressure": (0.02, "share", 3),
        "steal": (0.125, "share", 2),
        "throttled": (0.75, "s", 3),
        "load": (3.0, "count", 3),
        "mhz": (2550.0, "MHz", 2),
    }
    row = rows["steal"]
    assert (row.recipe, row.baseline, row.scenario, row.threads) == ("machine", "b", "health", 2)
    assert (row.target, row.engine, row.seed) == (None, None, 3)
    assert {row.reason for row in rows.values()} == {None}
    said = "2 of 3 blocks were disturbed, most often by the CPU quota"
    assert {row.noise for row in rows.values()} == {said}


def test_what_is_not_told_has_a_reason_and_no_value() -> None:
    rows = by_metric(health_rows(COMMON, 1, [Health(0.02)], [None]))
    assert rows.pop("noisy_blocks").value == 0.0
    assert {(row.value, row.reason) for row in rows.values()} == {
        (None, "this system doesn't tell it")
    }
    none = health_rows(COMMON, 1, [], [])
    assert {(row.value, row.n, row.reason) for row in none} == {(None, 0, "no block was measured")}
