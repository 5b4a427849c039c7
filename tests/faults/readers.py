"""Readers of foreign files, each with right inputs to start from and what must hold of any."""

import csv
import io
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from samples import (
    ARTIFACT,
    BASELINE,
    BUILD,
    COLUMNS,
    CSV,
    ENVIRONMENT,
    KEYS,
    LINES,
    RECIPES,
    ROWS,
    SCHEMA,
    checkpoint,
    graph,
    made_lines,
    made_table,
)

from harness.artifact import Artifact, ModelSpec, read_artifact
from harness.checkpoints import read_tensors
from harness.comparable import read_environment
from harness.datasets.prepare import prepare
from harness.datasets.table import load
from harness.document import read_document, yaml_text
from harness.errors import DataError
from harness.gates.builds import read_build
from harness.loading import load_recipes
from harness.recipe import resolved
from harness.report.lookup import results
from harness.report.page import _render, write_report
from harness.results import read_rows, to_frame
from harness.schema import read_schema
from harness.stages.graphs import load_graph
from harness.stages.side_files import is_aside, tensor_array
from harness.visible import hidden

Check = Callable[[bytes], object]


@dataclass(frozen=True)
class Reader:
    """``start(folder)`` gives a check of one input, which raises ``HarnessError`` for a wrong one
    and ``AssertionError`` where something that must hold doesn't; ``share`` is of the time. Where
    inputs by bytes seldom are right, ``make`` gives those of awkward values in the right form.
    """

    start: Callable[[Path], Check]
    right: Sequence[bytes]
    words: Sequence[bytes] = ()
    share: float = 1.0
    make: Callable[[Random], bytes] | None = None


def recipes(folder: Path) -> Check:
    """What loads reads back the same from what is stored beside the results."""
    (folder / "base.yaml").write_bytes(BASELINE)
    path, again = folder / "recipe.yaml", folder / "again.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content.replace(b"baseline: base", b"baseline: base.yaml"))
        (recipe,) = load_recipes([path])
        values = resolved(recipe)
        again.write_text(yaml_text({**values, "baseline": "base.yaml"}), encoding="utf-8")
        (second,) = load_recipes([again])
        assert resolved(second) == values, "the stored recipe is another"

    return check


def documents(folder: Path) -> Check:
    """Any bytes are a document, or have a problem with a sentence."""
    path = folder / "any.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        document = read_document(path)
        assert document.problems or document.data is not None
        assert document.nodes <= 10_000
        assert all(problem.message for problem in document.problems)

    return check


def tables(folder: Path) -> Check:
    """Every row that Python's own reader sees is kept or counted, and no number isn't finite."""
    path = folder / "data.csv"
    names: dict[str, Any] = {"user": "u", "item": "i", "label": "l", "seed": 1}

    def check(content: bytes) -> None:
        path.write_bytes(content)
        prepared = prepare(
            load(folder, path="data.csv", categorical=("c",), numeric=("n",), **names)
        )
        text = content.decode("utf-8-sig")
        rows = [r for r in csv.reader(io.StringIO(text, newline="")) if r]
        counts = prepared.counts
        assert counts["read"] == sum(v for k, v in counts.items() if k != "read"), counts
        assert counts["read"] == len(rows) - 1, (
            f"{counts['read']} rows, Python reads {len(rows) - 1}"
        )
        for split in prepared.splits.values():
            for array in split.arrays.values():
                assert array.dtype.kind == "i" or abs(array).max(initial=0) < float("inf")

    return check


def rows(folder: Path) -> Check:
    """What is read fits into a table of its types, and is read back the same from strict JSON."""
    path = folder / "rows.jsonl"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = read_rows(folder)
        assert len(to_frame(found)) == len(found)
        lines = [json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) for one in found]
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
        assert read_rows(folder) == found

    return check


def reports(folder: Path) -> Check:
    """Rows that are read have a page: every table's lines as wide, nothing hidden in it."""
    path = folder / "rows.jsonl"
    links: dict[str, str | None] = defaultdict(lambda: None)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = read_rows(folder)
        if not found:
            raise DataError("no rows")
        page = _render(results(found), {"cpu": "one", "threads": 2}, links)
        assert hidden(page) is None, hidden(page)
        width = 0
        for line in page.split("\n"):
            cells = line.replace("\\|", "").count("|")
            width = (width or cells) if line.startswith("|") else 0
            assert not line.startswith("|") or cells == width, line

    return check


def environments(folder: Path) -> Check:
    """What is read of a machine can be shown, with nothing hidden in it."""
    links: dict[str, str | None] = defaultdict(lambda: None)

    def check(content: bytes) -> None:
        (folder / "environment.json").write_bytes(content)
        page = _render(results(list(ROWS[:1])), read_environment(folder), links)
        assert hidden(page) is None, hidden(page)

    return check


def graphs(folder: Path) -> Check:
    """A graph that is taken has its weights, in it or in a file of its folder."""
    (folder / "own.bin").write_bytes(bytes(16))

    def check(content: bytes) -> None:
        (folder / "model.onnx").write_bytes(content)
        model = load_graph(Artifact(folder, "onnx", ModelSpec("mlp", {}), (), ()), weights=False)
        for tensor in filter(is_aside, model.graph.initializer):
            assert tensor_array(tensor, folder).size <= 16

    return check


def pictures(folder: Path) -> Check:
    """Rows that are read have every picture, and no warning of the library that draws ends them."""
    path = folder / "rows.jsonl"
    (folder / "environment.json").write_text('{"cpu": "one", "threads": 2}')

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with warnings.catch_warnings(action="ignore"):
            write_report(folder)

    return check


def json_file(name: str, read: Callable[[Path], object]) -> Callable[[Path], Check]:
    """A check of one file that a reader of a folder takes."""

    def start(folder: Path) -> Check:
        (folder / "vocabulary.json").write_text('{"user": ["a"], "item": ["b"]}')

        def check(content: bytes) -> None:
            (folder / name).write_bytes(content)
            read(folder)

        return check

    return start


def checkpoints(folder: Path) -> Check:
    """Weights are tensors of plain numbers, by name."""
    path = folder / "weights.pt"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with warnings.catch_warnings(action="ignore"):
            found = read_tensors(path)
        assert all(isinstance(name, str) for name in found)

    return check


READERS = {
    "recipes": Reader(recipes, RECIPES, KEYS, share=3.0),
    "documents": Reader(documents, (*RECIPES, BASELINE, b"a: &a [1, *a]\n"), KEYS),
    "tables": Reader(tables, CSV, (b"u1", b"u,i,l", b"\n", b",,", b'"a\nb"'), 3.0, made_table),
    "rows": Reader(rows, (LINES,), COLUMNS, 1.5, made_lines),
    "reports": Reader(reports, (LINES,), COLUMNS, 2.0, made_lines),
    "pictures": Reader(pictures, (LINES,), COLUMNS, 2.0, made_lines),
    "environments": Reader(
        environments,
        (ENVIRONMENT,),
        (b'"threads"', b"2", b"[", b"{"),
        share=0.5,
    ),
    "artifacts": Reader(
        json_file("artifact.json", read_artifact),
        (ARTIFACT,),
        (b'"model.py"', b'"file"', b'"torch"', b'"int64"', b"[]", b"{}", b"3"),
        share=0.5,
    ),
    "builds": Reader(
        json_file("builds.json", read_build),
        (BUILD,),
        (b'"half@ort-cpu"', b'"ort-cpu"', b'"inputs/a.npz"', b"3", b"[]", b"{}"),
        share=0.5,
    ),
    "schemas": Reader(
        json_file("schema.json", read_schema),
        (SCHEMA,),
        (b'"u"', b'"user"', b'"categorical"', b"2", b"null", b"[]"),
        share=0.5,
    ),
    "graphs": Reader(graphs, (graph(),), (b"own.bin", b"location", b"offset", b"0", b"w"), 0.5),
    "checkpoints": Reader(
        checkpoints, (checkpoint(), checkpoint(_use_new_zipfile_serialization=False)), share=1.0
    ),
}
