"""A faiss index of a catalogue's items: what its files are, and that they are so before use.

Beside ``model.onnx``, which gives the queries, a folder holds ``index.json`` (what the index is),
``index.faiss`` unless every item is looked at, and the items' fp32 vectors: where the graph keeps
them too, in its side file, else in ``vectors.bin``. Nothing is unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from harness.errors import DataError
from harness.schema import UNKNOWN
from harness.strict_json import load_json

Kind = Literal["flat", "pq4", "hnsw"]

DESCRIPTION, INDEX, VECTORS = "index.json", "index.faiss", "vectors.bin"
MOST_BYTES = 4 << 30
"""Bytes of a description that are read: a bias of each item is in it."""
BITS, CODES = 4, 16
"""Bits of a code of ``pq4``, and how many codes there are."""
FIRST = UNKNOWN + 1
"""The first id that is an item; row 0 of an index is this item."""
KERNEL = 15
"""Which of faiss's scans of codes is taken: its lists don't depend on the batch, and each query is
scanned by itself."""
LARGEST = (1 << 32) - 1
"""The largest id of an item."""
_MARKS = {"pq4": b"IPfs", "hnsw": b"IHNf"}
"""The first bytes of faiss's files of these kinds."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """What an index is of and how it is searched.

    ``items`` counts rows of the table, that of no item included; ``codes`` of an item (0 but for
    ``pq4``); ``stored_at`` is where the vectors are: a file's name, and the byte they start at.
    """

    kind: Kind
    items: int
    dim: int
    top: int
    candidates: int
    codes: int
    bias: tuple[float, ...] | None
    queries: str
    index_bytes: int
    stored_at: tuple[str, int]

    @property
    def rows(self) -> int:
        """Items that can be found."""
        return self.items - FIRST

    @property
    def width(self) -> int:
        """Numbers of a vector in the index: the item's, its bias, and zeros that fill up codes; of
        ``hnsw`` one that makes all vectors equally long.
        """
        width = self.dim + (self.bias is not None)
        if self.kind == "hnsw":
            return width + 1
        return width if self.kind == "flat" else -(-width // self.codes) * self.codes


@dataclass(frozen=True)
class ItemIndex:
    """An index that is open: faiss's own object, and the items' vectors (items, dim) float32."""

    spec: IndexSpec
    found: Any
    vectors: np.ndarray
    bias: np.ndarray | None
    held: tuple[Any, ...] = ()
    """What faiss's object points to and doesn't own."""


def widened(spec: IndexSpec, vectors: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The vectors of items as the index has them, (rows, width) float32, row 0 (no item) left out.

    A bias is one number more, multiplied by 1. For ``hnsw`` the last one makes all lengths equal,
    so that the nearest vector is the one of the largest product (Bachrach et al. 2014,
    doi:10.1145/2645710.2645741).
    """
    wide = np.zeros((spec.rows, spec.width), np.float32)
    wide[:, : spec.dim] = vectors[FIRST:]
    if bias is not None:
        wide[:, spec.dim] = bias[FIRST:]
    if spec.kind == "hnsw":
        squares = np.einsum("ij,ij->i", wide, wide, dtype=np.float64)
        wide[:, -1] = np.sqrt(squares.max() - squares)
    return wide


def save_index(folder: Path, spec: IndexSpec) -> None:
    """Write the description of an index whose other files are in ``folder``."""
    (folder / DESCRIPTION).write_text(json.dumps(asdict(spec), allow_nan=False))


def open_index(folder: Path) -> ItemIndex:
    """The index in a folder, its vectors mapped. Raises ``DataError`` naming the file when one is
    missing, has another size, or isn't what ``index.json`` says.
    """
    import faiss

    spec = _read_spec(folder / DESCRIPTION)
    vectors = _map_vectors(folder, spec)
    bias = None if spec.bias is None else np.array(spec.bias, np.float32)
    if spec.kind == "pq4":
        return ItemIndex(spec, _read_codes(folder / INDEX, spec), vectors, bias)
    metric = faiss.METRIC_L2 if spec.kind == "hnsw" else faiss.METRIC_INNER_PRODUCT
    storage = faiss.IndexFlat(spec.width, metric)
    storage.add(widened(spec, vectors, bias))
    if spec.kind == "flat":
        return ItemIndex(spec, storage, vectors, bias)
    graph = _read_links(folder / INDEX, spec)
    graph.storage, graph.own_fields = storage, False
    return ItemIndex(spec, graph, vectors, bias, held=(storage,))


def _read_spec(path: Path) -> IndexSpec:
    try:
        told = load_json(path, most=MOST_BYTES)
        name, start = told.pop("stored_at")
        bias = told.pop("bias")
        bias = None if bias is None else tuple(float(number) for number in bias)
        spec = IndexSpec(**told, bias=bias, stored_at=(str(name), int(start)))
        _check_spec(spec)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: not the description of an index ({error!r}); make it again"
        ) from (error)
    return spec


def _check_spec(spec: IndexSpec) -> None:
    """Raise ``ValueError`` for a description that no index has."""
    counts = (spec.items, spec.dim, spec.top, spec.candidates, spec.codes, spec.index_bytes)
    if not all(isinstance(count, int) and 0 <= count < 1 << 48 for count in counts):
        raise ValueError(f"counts {counts}")
    if spec.kind not in get_args(Kind) or not isinstance(spec.queries, str):
        raise ValueError(f"kind {spec.kind!r} of {spec.queries!r}")
    if not 1 <= spec.top <= min(spec.candidates, spec.rows) or not 1 <= spec.items <= LARGEST:
        raise ValueError(f"lists of {spec.top} of {spec.candidates} of {spec.items}")
    wide = spec.dim + (spec.bias is not None)
    if not (1 <= spec.codes <= wide if spec.kind == "pq4" else spec.codes == 0) or spec.dim < 1:
        raise ValueError(f"{spec.codes} codes of {wide} numbers")
    if spec.bias is not None and (len(spec.bias) != spec.items or not np.isfinite(spec.bias).all()):
        raise ValueError(f"{len(spec.bias)} biases of {spec.items} items, or not finite")
    name, start = spec.stored_at
    if Path(name).name != name or start < 0:
        raise ValueError(f"vectors at {spec.stored_at}")


def _map_vectors(folder: Path, spec: IndexSpec) -> np.ndarray:
    path, start = folder / spec.stored_at[0], spec.stored_at[1]
    needed = spec.items * spec.dim * 4
    size = path.stat().st_size if path.is_file() else 0
    if start + needed > size:
        raise DataError(
            f"{path}: {size} bytes, but the items' vectors take {needed} from byte {start} on; the "
            "file is missing or cut short: make the artifact again"
        )
    return np.memmap(path, np.float32, "r", offset=start, shape=(spec.items, spec.dim))


def _read_file(path: Path, spec: IndexSpec, flags: int) -> Any:
    """What faiss reads of a file of the right size, mark, width and rows."""
    import faiss

    size = path.stat().st_size if path.is_file() else 0
    if size != spec.index_bytes:
        raise _damaged(path, f"{size} bytes, expected {spec.index_bytes}")
    with path.open("rb") as stream:
        head = stream.read(16)
    told = (head[:4], *(int.from_bytes(head[a:b], "little") for a, b in ((4, 8), (8, 16))))
    if told != (_MARKS[spec.kind], spec.width, spec.rows):
        raise _damaged(path, f"begins with {told}")
    before = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(size)  # no array of a file is larger than it
    try:
        found = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise _damaged(path, str(error).strip().splitlines()[0][-200:]) from error
    finally:
        faiss.set_deserialization_vector_byte_limit(before)
    if (found.d, found.ntotal, found.is_trained) != (spec.width, spec.rows, True):
        raise _damaged(path, f"{found.ntotal} vectors of {found.d} numbers")
    return found


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: not the index that {DESCRIPTION} tells of: {what}; make it again")


def _read_codes(path: Path, spec: IndexSpec) -> Any:
    """An ``IndexPQFastScan`` whose arrays have the sizes that a search takes for granted."""
    import faiss

    found = _read_file(path, spec, 0)
    each, even = spec.width // spec.codes, spec.codes + spec.codes % 2
    blocks = -(-spec.rows // 32) * 32
    told = (found.M, found.M2, found.nbits, found.ksub, found.bbs, found.ntotal2)
    parts = (found.pq.M, found.pq.dsub, found.pq.ksub, found.pq.nbits, found.pq.d)
    sizes = (found.codes.size(), found.pq.centroids.size(), found.metric_type)
    if (
        told != (spec.codes, even, BITS, CODES, 32, blocks)
        or parts != (spec.codes, each, CODES, BITS, spec.width)
        or sizes != (blocks * even // 2, CODES * spec.width, faiss.METRIC_INNER_PRODUCT)
    ):
        raise _damaged(path, f"codes {told}, {parts}, {sizes}")
    found.implem = KERNEL
    return found


def _read_links(path: Path, spec: IndexSpec) -> Any:
    """An ``IndexHNSWFlat`` without its vectors whose links all lead to one of its items."""
    import faiss

    found = _read_file(path, spec, faiss.IO_FLAG_SKIP_STORAGE)
    if found.metric_type != faiss.METRIC_L2:
        raise _damaged(path, f"metric {found.metric_type}")
    graph = found.hnsw
    names = ("neighbors", "offsets", "levels", "cum_nneighbor_per_level")
    links, starts, levels, room = (
        faiss.vector_to_array(getattr(graph, name)).astype(np.int64) for name in names
    )
    highest = int(levels.max(initial=0))
    right = (
        len(levels) == spec.rows
        and len(starts) == spec.rows + 1
        and int(levels.min(initial=1)) >= 1
        and highest < len(room)
        and bool((np.diff(room) >= 0).all())
        and bool((np.diff(starts) == room[np.clip(levels, 0, len(room) - 1)]).all())
        and (int(starts[0]), int(starts[-1])) == (0, len(links))
        and bool(((links >= -1) & (links < spec.rows)).all())
        and 0 <= graph.entry_point < spec.rows
        and graph.max_level == int(levels[graph.entry_point]) - 1
    )
    # An item that is linked to on a level must have that level itself.
    if not right or not _levels_hold(links, starts, levels, room):
        raise _damaged(path, "its links lead outside")
    return found


def _levels_hold(
    links: np.ndarray, starts: np.ndarray, levels: np.ndarray, room: np.ndarray
) -> bool:
    """Whether the links of each level lead to items that stand on it."""
    for level in range(1, int(levels.max())):
        above = starts[:-1][levels > level]
        places = above[:, None] + np.arange(room[level], room[level + 1])
        targets = links[places]
        if (levels[targets[targets >= 0]] <= level).any():
            return False
    return True


def index_numbers(spec: IndexSpec, links: int) -> int:
    """Numbers that an index stores beside the items' vectors: codes and what they stand for, or
    ``links`` of a graph.
    """
    coded = spec.rows * spec.codes + CODES * spec.width if spec.kind == "pq4" else 0
    return coded + (links if spec.kind == "hnsw" else 0)


def read_facts(index: ItemIndex) -> Mapping[str, Any]:
    """What is searched, for an engine's notes."""
    spec = index.spec
    return {
        "index": type(index.found).__name__,
        "items": int(index.found.ntotal),
        "candidates": spec.candidates,
        "codes": spec.codes,
    }
