"""Two builds in turns, with a made-up clock: what is slower, bigger, gone or not comparable."""

import json

import pytest
from made_times import point

from harness.errors import DataError, EnvironmentMismatch
from harness.gates.builds import FILE, Build, Built, write_build
from harness.gates.interleaved import gate_builds, planted_seen, same_passed
from harness.gates.rules import count_line, exit_code
from harness.store import file_hash
from harness.suites.regression import POINTS, Regression, point_name

ENVIRONMENT = {"cpu": "one", "threads": 2, "commit": "c"}
NAMES = ("fp32@ort-cpu", "int8@ort-cpu")


@pytest.fixture
def build(tmp_path):
    """``build("head", NAMES, changes of every artifact)``: a build folder without models."""

    def write(name, names=NAMES, environment=ENVIRONMENT, failed=(), **changes):
        folder = tmp_path / name
        (folder / "inputs").mkdir(parents=True)
        inputs = {}
        for at in map(point_name, POINTS):
            path = folder / "inputs" / f"{at}.npz"
            path.write_text(f"inputs {at}")
            inputs[at] = (f"inputs/{at}.npz", file_hash(path))
        values = {
            **{"baseline": "base", "key": "k", "format": "onnx", "precision": "fp32"},
            **{"technique": "reference", "bytes": 1000, "data_hash": "d", "inputs": inputs},
        }
        artifacts = {n: Built(n, *n.split("@"), **{**values, **changes}) for n in names}
        write_build(Build(folder, environment, artifacts, {}, dict(failed)))
        return folder

    return write


def clock(slow=1.0, crash=(), noise=1.0, blind=False):
    """A clock by which every artifact of ``head`` takes ``slow`` times as long as base's; the
    copy of a reference ``noise`` times; ``blind`` ignores planted slowdowns.
    """

    def seconds(arm):
        if arm.role != "variant" and arm.folder.name in crash:
            return None
        if arm.role == "aa":
            return 1e-3 * noise
        planted = 1.0 if blind else arm.slowdown
        if arm.role == "variant" and arm.folder.parent.name == "head":
            return None if arm.folder.name in crash else 1e-3 * slow * planted
        return 1e-3 * planted

    def time(arms, feeds):
        assert all(set(files) == {arm.name for arm in arms} for files in feeds.values())
        assert all(path.is_file() for files in feeds.values() for path in files.values())
        return {at: point({arm: seconds(arm) for arm in arms}, at) for at in feeds}

    return time


def no_task(name):
    return lambda label, share: None


def judged(head, base, time):
    results = gate_builds(head, base, no_task, time=time)
    return exit_code(results), results


def test_the_same_build_twice_passes_with_both_controls(build) -> None:
    code, results = judged(build("head"), build("base"), clock())
    assert (code, count_line(results)) == (0, "8 comparisons made: 8 passed")
    assert results[1].sentence.startswith(
        "fp32 on ort-cpu: time at 64x1, 1 thread: 1.000 times the reference's time"
    )
    assert [r.sentence.split(" (")[0] for r in results if r.recipe == "control"] == [
        "control: a planted slowdown of 1.25x was seen",
        "control: the same artifact twice is no slower",
    ]


@pytest.mark.parametrize(
    ("slow", "code", "words"),
    [
        (1.03, 0, {"passed"}),
        (1.06, 0, {"passed", "warning"}),
        (1.09, 1, {"passed", "failed"}),
        (10.0, 1, {"passed", "failed"}),
        (0.5, 0, {"passed"}),
    ],
)
def test_a_slower_head_fails_and_a_little_noise_does_not(build, slow, code, words) -> None:
    found, results = judged(build("head"), build("base"), clock(slow))
    assert (found, {r.outcome for r in results}) == (code, words)


def test_an_artifact_that_is_gone_fails_by_name_and_a_new_one_is_listed(build) -> None:
    head = build("head", ("fp32@ort-cpu", "fp16@ort-cpu"), failed={"int8@ort-cpu": "no memory"})
    code, results = judged(head, build("base"), clock())
    told = {r.recipe: (r.outcome, r.sentence) for r in results if r.outcome != "passed"}
    assert code == 1
    assert told["int8"][0] == "failed"
    assert told["int8"][1].endswith("(failed: no memory)")
    assert told["fp16"][0] == "new"


def test_with_nothing_in_common_nothing_passes(build) -> None:
    code, results = judged(build("head", ("a@ort-cpu",)), build("base", ("b@ort-cpu",)), clock())
    assert (code, [r.outcome for r in results]) == (1, ["failed", "new"])


def test_a_candidate_that_crashes_fails_and_a_base_that_does_is_not_measured(build) -> None:
    head, base = build("head"), build("base")
    lost = clock(crash=("int8@ort-cpu",))
    results = gate_builds(head, base, no_task, time=lost)
    assert {r.outcome for r in results if r.recipe == "int8"} == {"passed", "not measured"}
    assert exit_code(results) == 4

    def only_head(arms, feeds):
        return {
            at: point({a: None if a.folder.parent.name == "head" else 1e-3 for a in arms}, at)
            for at in feeds
        }

    results = gate_builds(head, base, no_task, time=only_head)
    assert exit_code(results) == 1
    assert any("candidate: crashed" in r.sentence for r in results if r.outcome == "failed")


def test_a_bigger_artifact_fails(build) -> None:
    for size, code in ((1020, 0), (1021, 1)):
        head, base = build(f"head{size}", bytes=size), build(f"base{size}")
        assert judged(head, base, clock())[0] == code


def test_a_blind_gate_fails(build) -> None:
    code, results = judged(build("head"), build("base"), clock(blind=True))
    assert code == 1
    assert any("the gate is blind" in r.sentence for r in results if r.outcome == "failed")


def test_a_noisy_machine_leaves_it_open(build) -> None:
    code, results = judged(build("head"), build("base"), clock(slow=2.0, noise=1.2))
    assert code == 3
    assert {r.outcome for r in results} == {"passed", "inconclusive"}


def test_without_a_base_nothing_was_compared(build, tmp_path) -> None:
    head = build("head")
    for base in (tmp_path / "none", build("empty", ())):
        code, results = judged(head, base, clock())
        assert code == 4
        assert results[0].sentence.startswith("no baseline, nothing compared: ")
        assert "python -m harness build" in results[0].sentence


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"environment": {**ENVIRONMENT, "threads": 8}}, "threads is 8 and 2"),
        ({"data_hash": "e"}, "data_hash is 'e' and 'd'"),
        ({"baseline": "another"}, "baseline is 'another' and 'base'"),
        (
            {"inputs": dict.fromkeys(map(point_name, POINTS), ("inputs/a", "x" * 64))},
            "inputs.64x1 is xxxxxxxxxxxx and",
        ),
    ],
)
def test_builds_of_another_machine_data_or_input_are_refused(build, change, told) -> None:
    with pytest.raises(EnvironmentMismatch, match=told):
        gate_builds(build("head", **change), build("base"), no_task, time=clock())


def test_inputs_that_were_altered_or_are_missing_are_refused(build) -> None:
    head, base = build("head"), build("base")
    (base / "inputs" / "64x1.npz").write_text("other")
    with pytest.raises(DataError, match="not the file that the build wrote"):
        gate_builds(head, base, no_task, time=clock())
    with pytest.raises(DataError, match="has no inputs for 64x1"):
        gate_builds(build("old", inputs={}), base, no_task, time=clock())


def test_a_head_that_cant_be_read_is_an_error(build) -> None:
    head, base = build("head"), build("base")
    (head / FILE).write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(DataError, match="not a build"):
        gate_builds(head, base, no_task, time=clock())


@pytest.mark.parametrize(
    ("outcome", "planted", "same"),
    [
        ("passed", "failed", "passed"),
        ("warning", "failed", "inconclusive"),
        ("failed", "passed", "inconclusive"),
        ("inconclusive", "inconclusive", "inconclusive"),
    ],
)
def test_what_the_controls_mean(outcome, planted, same) -> None:
    found = Regression(outcome)
    assert planted_seen(found)[0] == planted
    assert same_passed(found)[0] == same
