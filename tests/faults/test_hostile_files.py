"""Files of runs, builds and artifacts from elsewhere: nothing run, nothing written or read outside
their folder, one sentence with the file and the place.
"""

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from made_rows import row, save, timed
from onnx import TensorProto, helper, numpy_helper
from samples import ARTIFACT, BUILD, ENVIRONMENT, SCHEMA
from torch import nn

from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.checkpoints import read_tensors
from harness.comparable import read_environment
from harness.engines.openvino_cpu import OpenVinoCpu
from harness.engines.ort_cpu import OrtCpu
from harness.errors import DataError, UnsupportedError
from harness.gates.builds import read_build
from harness.modules import build_module, load_module, load_weights
from harness.report.latencies import COLUMNS as LATENCIES
from harness.report.latencies import read_latencies
from harness.report.page import write_report
from harness.results import LONGEST_LINE, Row, read_rows, write_rows
from harness.schema import read_schema
from harness.store import write_text
from harness.suites.points import read_feeds, write_batches
from harness.tables import TensorSpec

RIGHT = json.dumps(asdict(row()))


def with_column(name: str, text: str) -> str:
    """A row's line with another JSON text as one of its values."""
    own = json.dumps({name: asdict(row())[name]})[1:-1]
    assert own in RIGHT
    return RIGHT.replace(own, f'"{name}": {text}')


class TestRows:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            (with_column("recipe", "5"), "recipe is 5"),
            (with_column("recipe", "null"), "one of schema_version, run_id, recipe"),
            (with_column("target", '["x"]'), "target is ['x']"),
            (with_column("reason", "{}"), "reason is {}"),
            (with_column("batch", '"64"'), "batch is '64'"),
            (with_column("batch", "-1"), "batch is -1"),
            (with_column("batch", "1.5"), "batch is 1.5"),
            (with_column("threads", "true"), "threads is True"),
            (with_column("value", "true"), "value is True"),
            (with_column("value", "1e31"), "value is 1e+31"),
            (with_column("ratio", "-1e300"), "ratio is -1e+300"),
            (with_column("value", "NaN"), "NaN is no JSON number"),
            (with_column("value", "1e999"), "the number 1e999 is too large"),
            (with_column("value", "9" * 400), "is too large"),
            (with_column("n", "9" * 30), "is too large"),
            (with_column("converged", '"no"'), "converged is 'no'"),
            (with_column("status", '"fine"'), "status is 'fine'"),
            (with_column("schema_version", "[2]"), "schema_version is [2]"),
            (with_column("recipe", '"\\ud800"'), "half a character"),
            (RIGHT[:-1] + ', "recipe": "b"}', "the key 'recipe' is given twice"),
            ("[" * 100_000, "nested too deeply"),
            ('{"recipe": ' * 50_000, "nested too deeply"),
            ("[1]", "list, expected an object"),
            ("", "Expecting value"),
            (" " * (LONGEST_LINE + 1), f"a line of more than {LONGEST_LINE} bytes"),
        ],
        ids=range(25),
    )
    def test_the_line_is_named_with_what_is_wrong(
        self, tmp_path: Path, line: str, told: str
    ) -> None:
        (tmp_path / "rows.jsonl").write_text(f"{RIGHT}\n{line}\n{RIGHT}\n")
        with pytest.raises(DataError) as caught:
            read_rows(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path}/rows.jsonl:2: not rows of this version (")
        assert told in str(caught.value)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x1c", "\x0b", "\r"])
    def test_a_name_may_hold_what_other_readers_end_lines_with(
        self, tmp_path: Path, end: str
    ) -> None:
        rows = [row(recipe=f"a{end}b"), row(value=None, reason=f"x{end}")]
        write_rows(tmp_path, rows)
        assert read_rows(tmp_path) == rows

    def test_so_many_rows_and_no_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.results.MOST_ROWS", 3)
        (tmp_path / "rows.jsonl").write_text(f"{RIGHT}\n" * 3)
        assert len(read_rows(tmp_path)) == 3
        (tmp_path / "rows.jsonl").write_text(f"{RIGHT}\n" * 4)
        with pytest.raises(DataError, match="more than 3 rows"):
            read_rows(tmp_path)

    @pytest.mark.filterwarnings("ignore:Data has no positive values")
    @pytest.mark.parametrize("value", [0.0, -1.0, 5e-324, 1e-30, 1e30, -1e30])
    def test_figures_of_any_size_have_a_report(self, tmp_path: Path, value: float) -> None:
        figures = {"value": value, "ratio": value, "ratio_low": value, "ratio_high": value}
        rows: list[Row] = [row(technique="reference", recipe="fp32"), timed(unit="s", **figures)]
        rows += [row(metric="bytes", scenario="size", unit="bytes", value=value)]
        assert write_report(save(tmp_path / "run", rows)).is_file()


@pytest.mark.parametrize(
    ("name", "right", "read", "old", "new", "told"),
    [
        ("environment.json", ENVIRONMENT, read_environment, "2", "9" * 400, "is too large"),
        ("environment.json", ENVIRONMENT, read_environment, "2", "[" * 100_000, "too deeply"),
        ("environment.json", ENVIRONMENT, read_environment, "2", "NaN", "no JSON number"),
        ("environment.json", ENVIRONMENT, read_environment, '"one"', '"\\udfff"', "half a"),
        ("artifact.json", ARTIFACT, read_artifact, '"torch"', '"pickle"', "format 'pickle'"),
        ("artifact.json", ARTIFACT, read_artifact, '"model.py"}', '"model.py", "x": NaN}', "NaN"),
        ("artifact.json", ARTIFACT, read_artifact, '"int64"', '"object"', "'object' of"),
        ("artifact.json", ARTIFACT, read_artifact, '["rows"]', "[-1]", "of (-1,)"),
        ("artifact.json", ARTIFACT, read_artifact, '["rows"]', "[" * 100_000, "too deeply"),
        ("builds.json", BUILD, read_build, '"half@ort-cpu"', '"../x@ort-cpu"', "'../x@ort-cpu'"),
        ("builds.json", BUILD, read_build, '"half@ort-cpu"', '"/x@ort-cpu"', "'/x@ort-cpu'"),
        ("builds.json", BUILD, read_build, '"half@ort-cpu"', '".."', "artifact '..'"),
        ("builds.json", BUILD, read_build, '"ort-cpu"', '"ort-tpu"', "engine 'ort-tpu'"),
        ("builds.json", BUILD, read_build, "inputs/a.npz", "../a.npz", "outside of the build"),
        ("builds.json", BUILD, read_build, "inputs/a.npz", "/etc/passwd", "outside of the build"),
        ("builds.json", BUILD, read_build, '"bytes": 3', '"bytes": "3"', "bytes is a number"),
        ("builds.json", BUILD, read_build, '"b": "why"', '"b": ["' + "[" * 100_000, "not a build"),
        ("builds.json", BUILD, read_build, '{"b": "why"}', "[1]", "list, expected an object"),
        ("schema.json", SCHEMA, read_schema, '"categorical"', '"pickled"', "'pickled'"),
        ("schema.json", SCHEMA, read_schema, '"cardinality": 2', '"cardinality": -2', "-2"),
        ("schema.json", SCHEMA, read_schema, '"user": "u"', '"user": "x"', "are no fields"),
        ("schema.json", SCHEMA, read_schema, '"click"', '"eval"', "task 'eval'"),
    ],
    ids=range(22),
)
def test_descriptions_are_of_known_types(
    tmp_path: Path,
    name: str,
    right: bytes,
    read: Callable[[Path], Any],
    old: str,
    new: str,
    told: str,
) -> None:
    (tmp_path / "vocabulary.json").write_text('{"u": ["a"]}')
    (tmp_path / name).write_bytes(right)
    read(tmp_path)
    assert old.encode() in right
    (tmp_path / name).write_text(right.decode().replace(old, new))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("words", ["[]", '{"u": "abc"}', '{"u": [1]}', "{", '{"u": [null]}'])
def test_a_vocabulary_is_lists_of_texts(tmp_path: Path, words: str) -> None:
    (tmp_path / "schema.json").write_bytes(SCHEMA)
    (tmp_path / "vocabulary.json").write_text(words)
    with pytest.raises(DataError, match=r"vocabulary\.json: can't be read as what it should be"):
        read_schema(tmp_path)


class TestCode:
    """The only code that is run is the model's file that is named, beside its artifact."""

    @pytest.mark.parametrize("source", ["../evil.py", "/evil.py", "..", "a/b.py", "", 5])
    def test_an_artifact_names_no_code_elsewhere(
        self, rec_artifact: Artifact, tmp_path: Path, source: object
    ) -> None:
        (tmp_path / "evil.py").write_text("raise SystemExit('run')")
        path = rec_artifact.folder / "artifact.json"
        content = json.loads(path.read_text())
        content["model"]["source"] = source
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match="expected the name of a file beside it"):
            read_artifact(rec_artifact.folder)

    def test_nor_by_its_parameters(self, rec_artifact: Artifact, tmp_path: Path) -> None:
        (tmp_path / "evil.py").write_text("raise SystemExit('run')")
        path = rec_artifact.folder / "artifact.json"
        content = json.loads(path.read_text())
        content["model"] |= {"source": None, "parameters": {"path": str(tmp_path / "evil.py")}}
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match="expected the name of a file beside it"):
            read_artifact(rec_artifact.folder)

    def test_a_model_of_no_catalog(self, tiny: Any, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no model 'os\.system'"):
            build_module(ModelSpec("os.system", {}), tiny.schema, folder=tmp_path, seed=1)


class TestWeights:
    @pytest.mark.parametrize(
        "value",
        [
            torch.eye(2).to_sparse(),
            torch.zeros(2, 2, dtype=torch.complex64),
            torch.zeros(2, 2, device="meta"),
            torch.zeros(2, 2).to(torch.float8_e4m3fn),
            torch.zeros(2, 2).long().numpy(),
            {"inner": torch.zeros(2, 2)},
        ],
        ids=["sparse", "complex", "meta", "float8", "numpy", "nested"],
    )
    def test_only_plain_tensors_are_weights(self, tmp_path: Path, value: object) -> None:
        path = tmp_path / "w.pt"
        torch.save({"weight": value}, path)
        with pytest.raises(DataError, match=r"contains? more than weights"):
            read_tensors(path)

    def test_names_are_texts(self, tmp_path: Path) -> None:
        torch.save({5: torch.zeros(2)}, tmp_path / "w.pt")
        with pytest.raises(DataError, match="contains more than weights"):
            read_tensors(tmp_path / "w.pt")

    def test_a_checkpoint_that_is_packed_is_a_bomb(self, tmp_path: Path) -> None:
        plain, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
        torch.save({"weight": torch.zeros(5000, 5000)}, plain)
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        assert bomb.stat().st_size < 10**6
        before = psutil.Process().memory_info().rss
        with pytest.raises(DataError, match="not a plain file of weights"):
            read_tensors(bomb)
        assert psutil.Process().memory_info().rss - before < 5 * 10**7
        assert read_tensors(plain)["weight"].shape == (5000, 5000)

    def test_a_shape_that_is_claimed_is_not_made(self, tmp_path: Path) -> None:
        """One number in the file, 40 GB if each of the claimed ones were looked at."""
        path = tmp_path / "w.pt"
        torch.save({"weight": torch.zeros(1).expand(100_000, 100_000)}, path)
        with pytest.raises(DataError, match=r"weight has shape \(100000, 100000\), the model"):
            load_weights(nn.Linear(2, 2, bias=False), read_tensors(path), where="w.pt")

    @pytest.mark.parametrize(
        "header",
        [
            {"w": {"dtype": "F32", "shape": [2**40, 2**30], "data_offsets": [0, 16]}},
            {"w": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}},
            {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]}},
            {"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
            {"w": {"dtype": "PY", "shape": [4], "data_offsets": [0, 16]}},
            {"w": {"dtype": "F8_E5M2", "shape": [16], "data_offsets": [0, 16]}},
            {
                "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "__metadata__": {"a": 1},
            },
            {
                "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            },
        ],
        ids=["huge", "negative", "beyond", "backwards", "dtype", "float8", "metadata", "shared"],
    )
    @pytest.mark.parametrize("length", [None, 2**62, 5])
    def test_a_header_that_lies(self, tmp_path: Path, header: object, length: int | None) -> None:
        text = json.dumps(header).encode()
        size = (length or len(text)).to_bytes(8, "little")
        (tmp_path / "w.safetensors").write_bytes(size + text + b"\0" * 16)
        with pytest.raises(DataError, match=r"w\.safetensors: refused"):
            read_tensors(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    def test_a_folder_is_no_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=f"{name}: can't be read"):
            read_tensors(tmp_path / name)


class TestLinks:
    def test_nothing_is_written_through_a_link_of_a_name_aside(self, tmp_path: Path) -> None:
        precious, folder = tmp_path / "precious", tmp_path / "run"
        precious.write_text("mine")
        folder.mkdir()
        (folder / ".report.md.partial").symlink_to(precious)
        with pytest.raises(OSError, match="symbolic link"):
            write_text(folder / "report.md", "report")
        assert precious.read_text() == "mine"

    def test_a_report_replaces_links_and_leaves_what_they_lead_to(self, tmp_path: Path) -> None:
        precious, elsewhere = tmp_path / "precious", tmp_path / "elsewhere"
        precious.write_text("mine")
        elsewhere.mkdir()
        (elsewhere / "pareto.png").write_text("mine")
        run = save(tmp_path / "run", [row(technique="reference"), row(recipe="b")])
        (run / "report.md").symlink_to(precious)
        (run / "plots").symlink_to(elsewhere)
        write_report(run)
        assert precious.read_text() == "mine"
        assert [path.name for path in elsewhere.iterdir()] == ["pareto.png"]
        assert (elsewhere / "pareto.png").read_text() == "mine"
        assert not (run / "plots").is_symlink()
        assert "Compression report" in (run / "report.md").read_text()


class TestGraphs:
    """Weights of a graph that are said to be in another file: none outside of its folder."""

    @pytest.fixture
    def pointing(self, tmp_path: Path) -> Callable[..., Artifact]:
        secret = tmp_path / "secret.bin"
        secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "link.bin").symlink_to(secret)

        def make(location: str, *, dims: int = 4) -> Artifact:
            weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[dims])
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location.format(tmp_path))
            given, made = (
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", dims])
                for name in ("x", "logits")
            )
            graph = helper.make_graph(
                [helper.make_node("Add", ["x", "w"], ["logits"])], "g", [given], [made], [weight]
            )
            opset = [helper.make_opsetid("", 17)]
            model = helper.make_model(graph, opset_imports=opset, ir_version=9)
            (folder / "model.onnx").write_bytes(model.SerializeToString())
            takes = (TensorSpec("x", "float32", ("rows", dims)),)
            gives = (TensorSpec("logits", "float32", ("rows", dims)),)
            return Artifact(folder, "onnx", ModelSpec("mlp", {}), takes, gives)

        return make

    @pytest.mark.parametrize("engine", [OrtCpu, OpenVinoCpu])
    @pytest.mark.parametrize("location", ["../secret.bin", "{}/secret.bin", "link.bin", "absent"])
    def test_no_engine_reads_it(
        self, pointing: Callable[..., Artifact], engine: type, location: str
    ) -> None:
        with pytest.raises(UnsupportedError, match=r"model\.onnx"):
            engine(pointing(location), threads=1)

    @pytest.mark.parametrize("engine", [OrtCpu, OpenVinoCpu])
    def test_sizes_that_no_file_has(
        self, pointing: Callable[..., Artifact], engine: type, tmp_path: Path
    ) -> None:
        (tmp_path / "model" / "own.bin").write_bytes(b"\0" * 16)
        with pytest.raises(UnsupportedError, match=r"model\.onnx"):
            engine(pointing("own.bin", dims=1 << 40), threads=1)

    @pytest.mark.parametrize("location", ["../secret.bin", "{}/secret.bin", "link.bin", "absent"])
    def test_no_stage_reads_it(self, pointing: Callable[..., Artifact], location: str) -> None:
        from harness.stages.graphs import load_graph

        with pytest.raises(DataError):
            load_graph(pointing(location))


class TestSizes:
    """Numbers that a graph says, and has not: refused by name, and no engine takes the memory."""

    HUGE = 10**12

    @pytest.fixture
    def claiming(self, tmp_path: Path) -> Callable[[str], Artifact]:
        size = numpy_helper.from_array(np.array([self.HUGE], np.int64), "size")
        zero = numpy_helper.from_array(np.array([0], np.int64), "zero")
        one = numpy_helper.from_array(np.ones(1, np.float32), "one")
        short = TensorProto(name="w", data_type=1, dims=[self.HUGE, 4], raw_data=b"\0" * 16)
        below = TensorProto(name="w", data_type=1, dims=[-1, 4], raw_data=b"\0" * 16)
        last = [
            helper.make_node("ReduceSum", ["made", "zero"], ["sum"]),
            helper.make_node("Add", ["x", "sum"], ["logits"]),
        ]
        add = [helper.make_node("Add", ["x", "w"], ["logits"])]
        parts = {
            "ConstantOfShape": [helper.make_node("ConstantOfShape", ["size"], ["made"]), *last],
            "Expand": [helper.make_node("Expand", ["one", "size"], ["made"]), *last],
            "Tile": [helper.make_node("Tile", ["one", "size"], ["made"]), *last],
            "initializer": add,
            "negative": add,
            "constant": [helper.make_node("Constant", [], ["w"], value=short), *add],
        }
        tensors = {"initializer": [short], "negative": [below], "constant": []}

        def make(kind: str) -> Artifact:
            given, made = (
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])
                for name in ("x", "logits")
            )
            held = tensors.get(kind, [size, zero, one])
            graph = helper.make_graph(parts[kind], "g", [given], [made], held)
            opset = [helper.make_opsetid("", 17)]
            model = helper.make_model(graph, opset_imports=opset, ir_version=9)
            (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
            takes = (TensorSpec("x", "float32", ("rows", 4)),)
            gives = (TensorSpec("logits", "float32", ("rows", 4)),)
            return Artifact(tmp_path, "onnx", ModelSpec("mlp", {}), takes, gives)

        return make

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            ("ConstantOfShape", r"node 'made' \(ConstantOfShape\) makes 1,000,000,000,000 values"),
            ("Expand", r"node 'made' \(Expand\) makes 1,000,000,000,000 values"),
            ("Tile", r"node 'made' \(Tile\) makes 1,000,000,000,000 values"),
            ("initializer", r"'w' is of \[1000000000000, 4\], and holds \d+ bytes"),
            ("negative", r"'w' is of \[-1, 4\], and holds"),
            ("constant", r"'w' is of \[1000000000000, 4\], and holds"),
        ],
    )
    def test_no_stage_takes_them(
        self, claiming: Callable[[str], Artifact], kind: str, told: str
    ) -> None:
        from harness.stages.graphs import load_graph

        with pytest.raises(DataError, match=told):
            load_graph(claiming(kind))

    @pytest.mark.parametrize("engine", [OrtCpu, OpenVinoCpu])
    @pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "initializer", "constant"])
    def test_no_engine_takes_the_memory(
        self, claiming: Callable[[str], Artifact], engine: type, kind: str
    ) -> None:
        before = psutil.Process().memory_info().rss
        with (
            pytest.raises(Exception, match=r".") as caught,
            engine(claiming(kind), threads=1) as it,
        ):
            it.score({"x": np.zeros((2, 4), np.float32)})
        assert not isinstance(caught.value, AssertionError)
        assert psutil.Process().memory_info().rss - before < 3 * 10**8


class TestFeeds:
    def test_packed_inputs_are_refused(self, tmp_path: Path) -> None:
        path = write_batches(tmp_path / "a.npz", [{"x": np.zeros((2, 3), np.float32)}])
        assert len(read_feeds(path)) == 1
        np.savez_compressed(path, x=np.zeros(10**6), **{"x/shape": np.array([[10**6]])})
        with pytest.raises(DataError, match="not a file of batches"):
            read_feeds(path)

    @pytest.mark.parametrize(
        "array",
        [
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, "
            b"'shape': (1099511627776,), }".ljust(128),
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
            + pickle.dumps([1]),
            b"\x93NUMPY\x01\x00\x76\x00__import__('os').system('touch MARK')",
            b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 500,
            b"no array",
        ],
        ids=["huge", "object", "code", "deep", "none"],
    )
    def test_headers_that_lie(self, tmp_path: Path, array: bytes) -> None:
        path = tmp_path / "a.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", array)
            archive.writestr("x/shape.npy", array)
        with pytest.raises(DataError, match="not a file of batches"):
            read_feeds(path)
        assert not Path("MARK").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seconds": ["x", "y"]}, "not a readable parquet file"),
        ({"seconds": [float("inf"), 1.0]}, "a number that is none of a latency"),
        ({"batch": [1e300, 1.0]}, "a number that is none of a latency"),
        ({"quantile": [[0.5], [0.9]]}, "not a readable parquet file"),
        ({"recipe": [{"a": 1}, {"a": 2}]}, "not a readable parquet file"),
    ],
)
def test_latencies_are_numbers(tmp_path: Path, changes: dict[str, list[object]], told: str) -> None:
    right: dict[str, object] = dict.fromkeys(LATENCIES, 1.0)
    right |= dict.fromkeys(("recipe", "target", "scenario", "region"), "a")
    frame = pd.DataFrame([right, right])
    frame.to_parquet(tmp_path / "base-latencies.parquet")
    assert len(read_latencies(tmp_path)) == 1
    frame.assign(**changes).to_parquet(tmp_path / "base-latencies.parquet")
    with pytest.raises(DataError, match=told):
        read_latencies(tmp_path)


def test_a_model_of_an_artifact_loads_as_before(rec_artifact: Artifact) -> None:
    assert isinstance(load_module(read_artifact(rec_artifact.folder)), nn.Module)


@pytest.mark.parametrize(
    ("command", "name", "content"),
    [
        ("check", "r.yaml", 'name: "\\e]0;owned\\a"\n'),
        ("report", "rows.jsonl", with_column("recipe", "5")),
        ("gate", "builds.json", BUILD.decode().replace("half@", "../\x1b[2J@")),
    ],
)
def test_the_command_line_says_so_and_ends_with_2(
    tmp_path: Path, command: str, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    place = tmp_path / name if command == "check" else tmp_path
    arguments = [str(place), *(["--against", str(place)] if command == "gate" else [])]
    done = subprocess.run(
        [sys.executable, "-m", "harness", command, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert all(sign.isprintable() for sign in done.stderr.replace("\n", ""))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
