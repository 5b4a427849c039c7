"""Places of others: pipes and folders under a file's name, loops of links, names that an encoding
lacks, more memory than there is; one sentence each, and nobody waits.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_rows import row, save
from onnx import TensorProto, helper

from harness import progress
from harness.artifact import Artifact, ModelSpec
from harness.checkpoints import read_tensors
from harness.comparable import read_environment
from harness.datasets.files import find_files
from harness.datasets.generated import load as generate
from harness.document import read_document
from harness.errors import DataError
from harness.loading import load_baseline
from harness.lock import lock_path, noise_of, read_lock, spec_key
from harness.machine_faults import fault_line
from harness.report.latencies import read_latencies
from harness.results import read_rows
from harness.stages.graphs import load_graph
from harness.store import write_text

NOISE = {"values": [0.5], "std": 0.25, "seeds": 3, "unit": "metric"}
PLAIN = "a pipe or device, expected a plain file"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("rows.jsonl", lambda path: read_rows(path.parent)),
        ("environment.json", lambda path: read_environment(path.parent)),
        ("ort-latencies.parquet", lambda path: read_latencies(path.parent)),
        ("weights.pt", read_tensors),
        ("weights.safetensors", read_tensors),
    ],
)
@pytest.mark.parametrize("device", [None, "/dev/zero"])
def test_a_pipe_or_device_is_not_waited_for(
    tmp_path: Path, name: str, read: Callable[[Path], Any], device: str | None
) -> None:
    path = tmp_path / name
    path.symlink_to(device) if device else os.mkfifo(path)
    with pytest.raises(DataError, match=PLAIN) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_nor_is_a_recipe_that_is_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    (problem,) = read_document(tmp_path / "r.yaml").problems
    assert problem.message == f"can't be read: {PLAIN}"


def test_nor_one_that_stands_where_a_file_is_written_aside(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".report.md.partial")
    with pytest.raises(OSError, match="No such device") as caught:
        write_text(tmp_path / "report.md", "report")
    assert fault_line(caught.value) is not None


class TestPatterns:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / ".hidden").mkdir()
        for place in ("a/x.csv", "a/b/x.csv", "a/.hidden/x.csv"):
            (tmp_path / place).write_text("u,i,l\n")
        return tmp_path

    @pytest.mark.parametrize("pattern", ["**/x.csv", "**", "a/**/*.csv", "[a]/**/x.csv"])
    def test_each_file_is_found_once(self, data: Path, pattern: str) -> None:
        found = [str(path.relative_to(data)) for path in find_files(data, pattern)]
        assert found == ["a/b/x.csv", "a/x.csv"]

    def test_a_pattern_that_would_find_them_again_and_again(self, data: Path) -> None:
        with pytest.raises(DataError, match=r"'\*\*' more than once in a pattern; write it once"):
            find_files(data, "**/" * 20 + "x.csv")

    def test_loops_of_links_are_not_followed(self, data: Path) -> None:
        """Two of them are 2^40 folders."""
        for name in ("one", "two"):
            (data / "a" / name).symlink_to(data)
        assert len(find_files(data, "**/x.csv")) == 2


class TestLocks:
    @pytest.fixture
    def locked(self, tmp_path: Path) -> Callable[[object], Any]:
        path = tmp_path / "base.yaml"
        path.write_text(
            "schema_version: 1\nname: base\ndataset: {generated: {}}\n"
            "model: {mlp: {dim: 4, widths: [8]}}\n"
        )
        spec = load_baseline(path)

        def read(noise: object) -> Any:
            lock_path(spec).write_text(json.dumps({"spec_key": spec_key(spec), "noise": noise}))
            return noise_of(read_lock(spec))

        return read

    def test_a_right_one(self, locked: Callable[[object], Any]) -> None:
        assert locked({"auc": NOISE}) == NOISE
        assert locked({"auc": {**NOISE, "std": None}}) is None

    @pytest.mark.parametrize(
        "noise",
        [
            *(5, "auc", ["auc"], None, {"auc": 5}, {"auc": [1]}, {"auc": {}}),
            *({"auc": {**NOISE, "std": "0"}}, {"auc": {**NOISE, "std": [0.1]}}),
            *({"auc": {**NOISE, "seeds": -1}}, {"auc": {**NOISE, "seeds": True}}),
            {"auc": {**NOISE, "unit": 5}},
        ],
        ids=repr,
    )
    def test_what_somebody_wrote_in_it(
        self, locked: Callable[[object], Any], noise: object
    ) -> None:
        with pytest.raises(DataError, match=r"base\.lock\.json: not a lock; remake it with"):
            locked(noise)


class TestSideFiles:
    """Also where a stage leaves the weights in their file, nothing outside is mapped."""

    @pytest.fixture
    def pointing(self, tmp_path: Path) -> Callable[..., Artifact]:
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret.bin").write_bytes(b"\1" * 16)
        (folder / "own.bin").write_bytes(b"\0" * 16)
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")

        def make(
            location: str, offset: str = "0", *, where: str = "graph", kind: int = TensorProto.FLOAT
        ) -> Artifact:
            weight = TensorProto(name="w", data_type=kind, dims=[4])
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)
            weight.external_data.add(key="offset", value=offset)
            given, made = (
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])
                for name in ("x", "logits")
            )
            nodes = [helper.make_node("Add", ["x", "w"], ["logits"])]
            constant = helper.make_node("Constant", [], ["w"], value=weight)
            if where == "node":
                nodes.insert(0, constant)
            if where == "branch":
                inner = helper.make_graph([constant], "inner", [], [])
                nodes.insert(0, helper.make_node("If", ["x"], ["w"], then_branch=inner))
            weights = [weight] if where == "graph" else []
            graph = helper.make_graph(nodes, "g", [given], [made], weights)
            (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
            return Artifact(folder, "onnx", ModelSpec("mlp", {}), (), ())

        return make

    def test_its_own_file(self, pointing: Callable[..., Artifact]) -> None:
        assert len(load_graph(pointing("own.bin"), weights=False).graph.initializer) == 1

    @pytest.mark.parametrize(
        ("location", "offset", "told"),
        [
            ("link.bin", "0", "no link"),
            ("own.bin", "-5", "from byte '-5' on"),
            ("own.bin", "abc", "from byte 'abc' on"),
            ("own.bin", "9" * 5000, "from byte '999"),
            ("own.bin", "1", "takes 16 from byte 1 on"),
            ("a" * 5000, "0", "missing or cut short"),
            ("..", "0", "missing or cut short|expected the name"),
            ("../secret.bin", "0", "expected the name of a file beside the graph"),
        ],
        ids=range(8),
    )
    def test_no_other_place(
        self, pointing: Callable[..., Artifact], location: str, offset: str, told: str
    ) -> None:
        with pytest.raises(DataError, match=told):
            load_graph(pointing(location, offset), weights=False)

    @pytest.mark.parametrize("kind", [TensorProto.STRING, 0, 69])
    def test_only_numbers_are_in_files(self, pointing: Callable[..., Artifact], kind: int) -> None:
        with pytest.raises(DataError, match=f"are of type {kind}, which no file of numbers has"):
            load_graph(pointing("own.bin", kind=kind), weights=False)

    def test_a_name_that_is_no_text(self, pointing: Callable[..., Artifact]) -> None:
        """protobuf gives it as bytes."""
        artifact = pointing("own.bin")
        content = artifact.file.read_bytes()
        artifact.file.write_bytes(content.replace(b"own.bin", b"own\xffbin"))
        with pytest.raises(DataError, match="missing or cut short"):
            load_graph(artifact, weights=False)

    @pytest.mark.parametrize("where", ["node", "branch"])
    def test_nor_of_a_tensor_inside_a_node(
        self, pointing: Callable[..., Artifact], where: str
    ) -> None:
        with pytest.raises(DataError, match="inside a node, are said to be in a file"):
            load_graph(pointing("own.bin", where=where), weights=False)


def test_more_columns_than_anyone_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9,007,199,254,740,994 columns"):
        generate(tmp_path, fields=1 << 53)


class TestFaults:
    def test_a_mistake_of_ours_has_no_line(self) -> None:
        for error in (RuntimeError("bug"), OSError("bug"), ValueError("bug")):
            assert fault_line(error) is None

    def test_memory_that_isnt_there(self) -> None:
        import numpy as np
        import torch

        for make in (torch.empty, np.empty):
            with pytest.raises((RuntimeError, MemoryError)) as caught:
                make((1 << 50,))
            line = fault_line(caught.value)
            assert line is not None
            assert line.startswith("this machine's memory doesn't hold it (")
            assert "\n" not in line


def harness(*arguments: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, its code, and what it said as bytes."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments], timeout=120, check=False, **streams
    )


@pytest.mark.parametrize("name", ["report.md", "plots", ".report.md.partial"])
def test_a_report_that_has_no_place_is_one_line(tmp_path: Path, name: str) -> None:
    run = save(tmp_path / "run", [row(technique="reference"), row(recipe="b")])
    if name == "plots":
        (run / name).write_text("a file")
    else:
        (run / name).mkdir()
    done = harness("report", str(run))
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(f"error: {run / name}: ".encode())


def test_a_terminal_that_lacks_a_letter_shows_its_escape(tmp_path: Path) -> None:
    run = save(tmp_path / "r\u00fcn", [row(technique="reference"), row(recipe="b")])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = harness("compare", str(run), str(run), "--accuracy-only", env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"r\\xfcn" in done.stdout


def test_a_stream_that_is_closed_is_left_alone() -> None:
    progress.take_any_text(None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_output_is_named_as_what_it_is() -> None:
    with open("/dev/full", "wb") as full:
        done = harness("--version", stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: can't be written: No space left on device\n"
