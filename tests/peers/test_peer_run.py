"""A made search from its file to tables, figures and a summary, by turns of real workers."""

import json
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.peers.page import BEGIN, END
from harness.peers.registry import REFERENCE
from harness.peers.run import Options, run
from harness.store import Store

OURS = "4-bit codes, rescored"
NATIVE = ["int8 scan, native", "int4 scan, native"]
BODY = """\
schema_version: 1
workloads:
  - {name: x, search: {items: 50, dim: 4, top: 3}, peers: [faiss flat], calls: [2x1], keep: 0.5}
"""


def task(name: str) -> object:
    return lambda label, share: None


@pytest.fixture
def workloads(tmp_path: Path) -> Path:
    path = tmp_path / "peers.yaml"
    path.write_text(BODY)
    return path


def test_a_search_is_made_judged_timed_and_written(workloads: Path, tmp_path: Path) -> None:
    readme, out = tmp_path / "README.md", tmp_path / "out"
    readme.write_text(f"top\n{BEGIN}\n{END}\n")
    options = Options(out, rounds=2, seconds=0.002, readme=readme)

    found = run(workloads, options, Store(tmp_path / "store"), task)  # type: ignore[arg-type]

    reference = found.lines[0]
    assert (reference.contestant, reference.status) == (REFERENCE, "ok")
    assert reference.quality is not None
    assert reference.quality.kept == 1.0
    assert reference.times is not None
    assert set(reference.times) == {0, 1}
    assert reference.ratio is not None
    assert (reference.ratio.value, reference.ratio.n) == (1.0, 2)
    assert [line.contestant for line in found.lines] == [REFERENCE, OURS, *NATIVE, "faiss flat"]
    assert found.lines[1].side == "ours"
    kept = json.loads((out / "peers.json").read_text())
    assert [line["contestant"] for line in kept["lines"]] == [
        line.contestant for line in found.lines
    ]
    assert json.loads((out / "environment.json").read_text())["peers"]["onnxruntime"]
    assert "## x" in (out / "peers.md").read_text()
    told = readme.read_text()
    assert any(f"| x | 2x1 | {name}: " in told for name in (OURS, *NATIVE))


def test_a_readme_is_not_cut_down_to_one_workload(workloads: Path, tmp_path: Path) -> None:
    options = Options(tmp_path / "out", only="x", readme=workloads)

    with pytest.raises(DataError, match="leave --only out"):
        run(workloads, options, Store(tmp_path / "store"), task)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
