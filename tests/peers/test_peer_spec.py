"""The file of workloads: what is read from it, and every mistake by its place."""

from pathlib import Path

import pytest

from harness.errors import RecipeError
from harness.peers.spec import read_workloads

ROOT = Path(__file__).parents[2]


def write(folder: Path, body: str) -> Path:
    path = folder / "peers.yaml"
    path.write_text(f"schema_version: 1\nworkloads:\n{body}")
    return path


def test_our_own_file_is_right() -> None:
    found = read_workloads(ROOT / "baselines" / "peers.yaml")

    kinds = [workload.entry.kind for workload in found]
    assert kinds == ["model"] * 4 + ["bags"] * 2 + ["search"] * 2
    assert found[0].calls == ((1, 1), (1, 16), (1, 256), (16, 256))
    assert all(workload.recipes for workload in found[:4])


def test_one_workload_may_be_picked_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    body = "".join(
        f"  - {{name: {name}, search: {{items: 9, dim: 4, top: 2}}, calls: [1x1]}}\n"
        for name in ("one", "two")
    )
    path = write(tmp_path, body)

    assert [one.entry.name for one in read_workloads(path, only="two")] == ["two"]
    with pytest.raises(RecipeError, match=r"--only 'tow': no such workload; did you mean 'two'"):
        read_workloads(path, only="tow")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("calls: [1x1]", "exactly one of baseline, bags, search"),
        ("baseline: b, search: {items: 9, dim: 4, top: 2}, calls: [1x1]", "exactly one of"),
        ("baseline: b, calls: [4]", "should be a valid string"),
        ("baseline: b, calls: [1x0]", "expected requests x candidates such as 1x256, got '1x0'"),
        ("baseline: b, calls: []", "calls: expected at least one"),
        ("search: {items: 9, dim: 4, top: 2}, calls: [1x4]", "write '1x4' as requests x 1"),
        ("search: {items: 9, dim: 4, top: 20}, calls: [1x1]", "expected top <= items, got 20, 9"),
        (
            "bags: {rows: 9, dim: 4, shortest: 3, longest: 2, bits: 8}, calls: [1x1]",
            "expected shortest <= longest, got 3, 2",
        ),
        ("baseline: b, peers: [torch eagre], calls: [1x1]", "did you mean 'torch eager'"),
        ("baseline: b, target: -1, calls: [1x1]", "target"),
        ("baseline: b, targets: {1x2: 3}, calls: [1x1]", "'1x2' is none of the calls 1x1"),
        ("baseline: b, rival: anyone, calls: [1x1]", "rival"),
        ("baseline: b, calls: [1x1], speed: 3", "unknown parameter 'speed'"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path, f"  - {{name: x, {body}}}\n")

    with pytest.raises(RecipeError) as raised:
        read_workloads(path)

    assert str(raised.value).startswith(f"{path}:3: ")
    assert message in str(raised.value)


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    one = "  - {name: x, search: {items: 9, dim: 4, top: 2}, calls: [1x1]}\n"

    with pytest.raises(RecipeError, match="'x' is given twice"):
        read_workloads(write(tmp_path, one + one))


def test_a_recipe_of_another_baseline_is_refused(tmp_path: Path) -> None:
    made, recipes = (ROOT / "tests" / "e2e" / name for name in ("baselines", "recipes"))
    body = (
        f"  - {{name: x, baseline: {made / 'listed'}, ours: [{recipes / 'made-half-int8.yaml'}], "
        "calls: [1x1]}\n"
    )

    with pytest.raises(RecipeError, match=r"baseline: 'made', but workload 'x' of .* has 'listed'"):
        read_workloads(write(tmp_path, body))
