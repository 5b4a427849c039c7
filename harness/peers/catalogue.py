"""Ways to search one catalogue, timed in turns: ``python -m harness.peers.catalogue OUT.json``.

onnxruntime's MatMul and TopK, the graph that an export has (which hides what was seen), its int8
scan, and faiss indexes as ``index_catalogue`` makes them. Vectors are plain Gaussian, where nothing
helps, or of few directions around centres, as trained ones are.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact, ModelSpec
from harness.item_index import Kind, save_index
from harness.schema import UNKNOWN, FeatureSchema, Field
from harness.stages.exact_lists import exact_lists, list_overlap
from harness.tables import TensorSpec

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

DIM, TOP, SEEN = 128, 11, 20
RANK, CENTRES = 24, 256
POOL = 64
"""Batches that are taken in turns: the same one again and again is learned by the processor."""
BLOCK = 0.2
"""Seconds of one turn at least."""
Lists = Sequence[np.ndarray]
Search = Callable[[np.ndarray, np.ndarray], Lists]
"""A function of queries (requests, dim) and seen ids (requests, 20)."""


@dataclass(frozen=True)
class Timing:
    """One way at one batch: median seconds a call, and how many times as fast as MatMul + TopK,
    the median and the quartiles over the rounds; ``overlap`` with the exact lists' items.
    """

    data: str
    items: int
    batch: int
    way: str
    seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    overlap: float


def make_vectors(data: str, items: int, requests: int, *, seed: int) -> tuple[np.ndarray, ...]:
    """Vectors (items, 128), row 0 of zeros, and queries (requests, 128), float32."""
    random = np.random.default_rng(seed)
    if data == "gaussian":
        table = random.standard_normal((items, DIM), np.float32) / np.float32(DIM**0.5)
        queries = random.standard_normal((requests, DIM), np.float32)
    else:
        falling = np.exp(-np.arange(RANK) / 8)[:, None]
        directions = (random.standard_normal((RANK, DIM)) * falling).astype(np.float32)
        centres = random.standard_normal((CENTRES, RANK), np.float32)

        def near(count: int, spread: float) -> np.ndarray:
            noise = random.standard_normal((count, RANK), np.float32)
            made: np.ndarray = centres[random.integers(0, CENTRES, count)] + spread * noise
            return made @ directions

        lengths = np.exp(0.3 * random.standard_normal((items, 1), np.float32))
        table = near(items, 0.5) * lengths
        table += 0.1 * table.std() * random.standard_normal(table.shape, np.float32)
        queries = near(requests, 0.7)
    table[UNKNOWN] = 0
    return np.ascontiguousarray(table, np.float32), np.ascontiguousarray(queries, np.float32)


def _plain(table: np.ndarray) -> Search:
    """MatMul and TopK, what is usually compared with; nothing is hidden but what is seen later."""
    from onnx import TensorProto, helper, numpy_helper

    from harness.stages.graphs import ort_session

    nodes = [
        helper.make_node("MatMul", ["query", "table"], ["all"]),
        helper.make_node("TopK", ["all", "top"], ["scores", "items"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "plain",
        [value("query", TensorProto.FLOAT, ["requests", DIM])],
        [value("scores", TensorProto.FLOAT, None), value("items", TensorProto.INT64, None)],
        [
            numpy_helper.from_array(np.ascontiguousarray(table.T), "table"),
            numpy_helper.from_array(np.array([TOP]), "top"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort_session(model)
    return lambda queries, seen: session.run(None, {"query": queries})


def _exported(table: np.ndarray) -> "onnx.ModelProto":
    """The graph of a catalogue as ``export_onnx`` writes it."""
    import torch

    from harness.models.catalogue import Catalogue
    from harness.stages.export_onnx import export_module

    fields = (Field("item", "categorical", "item", len(table)),)
    schema = FeatureSchema(fields, "event", "item", "item", task="next_item", length=1)
    catalogue = Catalogue(schema, dim=DIM, top=TOP)
    with torch.no_grad():
        catalogue.table.copy_(torch.from_numpy(table))
    inputs = (
        TensorSpec("queries", "float32", ("requests", DIM)),
        TensorSpec("seen", "int64", ("requests", "seen"), ("item",)),
    )
    kinds = (("scores", "float32"), ("items", "int64"))
    outputs = tuple(TensorSpec(name, kind, ("requests", TOP)) for name, kind in kinds)
    start = Artifact(Path(), "torch", ModelSpec("catalogue", {}), inputs, outputs)
    return export_module(catalogue, start, opset=18)


def _graph(model: "onnx.ModelProto") -> Search:
    from harness.stages.graphs import ort_session

    session = ort_session(model)
    return lambda queries, seen: session.run(None, {"queries": queries, "seen": seen})


def _scanned(model: "onnx.ModelProto", candidates: int) -> Search:
    from harness.stages.catalogue_graph import find_scoring
    from harness.stages.catalogue_scan import insert_scan
    from harness.stages.graphs import sort_nodes

    insert_scan(model, find_scoring(model, stage="scan"), candidates=candidates, reduce_range=True)
    sort_nodes(model.graph)
    return _graph(model)


def _indexed(kind: Kind, table: np.ndarray, folder: Path, oversample: int, numbers: int) -> Search:
    from dataclasses import replace

    from harness.item_index import VECTORS, IndexSpec, open_index
    from harness.item_lists import find_lists
    from harness.stages.index_building import build_index

    folder.mkdir()
    codes = -(-DIM // numbers) if kind == "pq4" else 0
    spec = IndexSpec(
        kind=kind,
        items=len(table),
        dim=DIM,
        top=TOP,
        candidates=min(oversample * TOP, len(table) - 1),
        codes=codes,
        bias=None,
        queries="queries",
        index_bytes=0,
        stored_at=(VECTORS, 0),
    )
    table.tofile(folder / VECTORS)
    save_index(folder, replace(spec, index_bytes=build_index(spec, table, None, folder, seed=0)))
    index = open_index(folder)
    return lambda queries, seen: find_lists(index, queries, seen)


def make_ways(table: np.ndarray, folder: Path, *, hnsw: bool) -> dict[str, Search]:
    """All ways by name, the first the one that the others are compared with."""
    ways = {"MatMul + TopK": _plain(table), "exported fp32": _graph(_exported(table))}
    for oversample in (4, 8):
        ways[f"int8 scan x{oversample}"] = _scanned(_exported(table), oversample * TOP)
    ways["flat"] = _indexed("flat", table, folder / "flat", 1, 1)
    for oversample, numbers in ((8, 1), (16, 1), (32, 1), (32, 2), (64, 2)):
        name = f"pq4 x{oversample}, {numbers} a code"
        ways[name] = _indexed("pq4", table, folder / name.replace(" ", ""), oversample, numbers)
    if hnsw:
        for oversample in (8, 32):
            name = f"hnsw{oversample}"
            ways[f"hnsw x{oversample}"] = _indexed("hnsw", table, folder / name, oversample, 1)
    return ways


def _overlap(search: Search, queries: np.ndarray, seen: np.ndarray, exact: Lists) -> float:
    scores, items = search(queries, seen)[:2]
    shares = list_overlap((scores, items), (exact[0], exact[1]), tolerance=1e-5)
    return float(np.nanmean(shares))


def time_ways(
    ways: Mapping[str, Search], queries: np.ndarray, seen: np.ndarray, *, rounds: int, seed: int
) -> dict[str, np.ndarray]:
    """Seconds of a call, the median of each round's turn, (rounds,) by name; every round in an
    order of its own. ``queries`` are (batches, requests, dim), ``seen`` likewise.
    """
    random, found = np.random.default_rng(seed), {name: list[float]() for name in ways}
    for search in ways.values():
        search(queries[0], seen[0])
    for _ in range(rounds):
        for at in random.permutation(len(ways)):
            name = list(ways)[at]
            found[name].append(_turn(ways[name], queries, seen))
    return {name: np.array(values) for name, values in found.items()}


def _turn(search: Search, queries: np.ndarray, seen: np.ndarray) -> float:
    taken, started = list[float](), time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - started < BLOCK:
        at = len(taken) % len(queries)
        before = time.perf_counter()
        search(queries[at], seen[at])
        taken.append(time.perf_counter() - before)
    return float(np.median(taken))


def measure(
    data: str, items: int, batches: Sequence[int], *, rounds: int, hnsw: bool, seed: int = 0
) -> Iterator[Timing]:
    """All ways at all batches over one made catalogue."""
    table, queries = make_vectors(data, items, POOL * max(batches), seed=seed)
    seen = np.random.default_rng(seed + 1).integers(1, items, (len(queries), SEEN))
    first = slice(0, 256)
    none = np.zeros((len(queries[first]), 1), np.int64)
    exact = exact_lists(queries[first], table, seen[first], top=TOP)
    open_lists = exact_lists(queries[first], table, none, top=TOP)
    with TemporaryDirectory() as folder:
        ways = make_ways(table, Path(folder), hnsw=hnsw)
        reference = next(iter(ways))
        held = {
            name: _overlap(
                s, queries[first], seen[first], open_lists if s is ways[reference] else exact
            )
            for name, s in ways.items()
        }
        for batch in batches:
            shaped = queries[: POOL * batch].reshape(POOL, batch, DIM)
            hidden = seen[: POOL * batch].reshape(POOL, batch, SEEN)
            times = time_ways(ways, shaped, hidden, rounds=rounds, seed=seed)
            for name, seconds in times.items():
                low, middle, high = np.quantile(times[reference] / seconds, (0.25, 0.5, 0.75))
                told = (float(np.median(seconds)), float(middle), float(low), float(high))
                yield Timing(data, items, batch, name, *told, held[name])


def main() -> None:
    """Measure what is asked for on one core, and write it to a JSON file, a list of ``Timing``."""
    import faiss
    import torch

    parser = argparse.ArgumentParser(prog="python -m harness.peers.catalogue")
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--data", nargs="+", default=["clustered", "gaussian"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without-hnsw", action="store_true", help="a million take minutes")
    asked = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    rows = list[Timing]()
    for items in asked.items:
        for data in asked.data:
            for row in measure(
                data, items, asked.batches, rounds=asked.rounds, hnsw=not asked.without_hnsw
            ):
                rows.append(row)
                log.info(
                    "%s %s b%s %-22s %9.3f ms  x%.2f [%.2f, %.2f]  overlap %.4f",
                    *(row.data, f"{row.items:,}", row.batch, row.way, 1000 * row.seconds),
                    *(row.ratio, row.ratio_low, row.ratio_high, row.overlap),
                )
                asked.out.write_text(json.dumps([asdict(each) for each in rows], indent=1))


if __name__ == "__main__":
    main()
