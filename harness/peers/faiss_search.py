"""faiss over a catalogue by inner product: the exact flat index and HNSW as they come, and ours,
four-bit codes whose best items get their exact scores.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact, write_artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, host_form
from harness.engines.probing import find_package
from harness.item_index import FIRST, VECTORS, IndexSpec, open_index, save_index
from harness.item_lists import find_lists
from harness.peers.candidates import set_candidates
from harness.peers.material import Material
from harness.peers.spec import Search

FILE = "items.faiss"
LINKS, BUILD_WIDTH = 32, 200


def make_flat(material: Material) -> None:
    """``IndexFlatIP``: every item, in fp32."""
    import faiss

    table = material.table()
    _write(material, faiss.IndexFlatIP(table.shape[1]), table)


def make_hnsw(material: Material) -> None:
    """``IndexHNSWFlat`` of 32 links, built with a width of 200; searched as wide as the list is
    long, twice over.
    """
    import faiss

    table = material.table()
    index = faiss.IndexHNSWFlat(table.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_WIDTH
    index.hnsw.efSearch = 2 * int(material.start.outputs[0].shape[1])
    _write(material, index, table)


def make_codes(material: Material) -> None:
    """What ``index_catalogue`` makes; its row 0 is no item."""
    from harness.stages.index_building import build_index

    table, asked = material.table(), Search.model_validate(material.start.model.parameters)
    vectors = np.concatenate([np.zeros_like(table[:1]), table])
    items, dim = vectors.shape
    spec = IndexSpec(
        kind="pq4",
        items=items,
        dim=dim,
        top=asked.top,
        candidates=asked.top,
        codes=dim,
        bias=None,
        queries="query",
        index_bytes=0,
        stored_at=(VECTORS, 0),
    )
    vectors.tofile(material.folder / VECTORS)
    size = build_index(spec, vectors, None, material.folder, seed=material.seed)

    def lists(candidates: int, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        save_index(material.folder, replace(spec, index_bytes=size, candidates=candidates))
        scores, items = find_lists(open_index(material.folder), queries, None)
        return scores, items - FIRST

    set_candidates(asked, table, lists)
    write_artifact(replace(material.start, folder=material.folder, precision="int4"))


def _write(material: Material, index: Any, table: np.ndarray) -> None:
    import faiss

    index.add(table)
    faiss.write_index(index, str(material.folder / FILE))
    write_artifact(replace(material.start, folder=material.folder))


class FaissSearch(Engine):
    """A faiss index on the CPU."""

    PACKAGE: ClassVar[str] = "faiss"

    @classmethod
    def probe(cls) -> Probe:
        """It runs wherever faiss is installed."""
        return find_package("faiss", extra="peers", distribution="faiss-cpu") or Probe("ok")

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        import faiss

        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(artifact.folder / FILE))
        self._top = int(artifact.outputs[0].shape[1])

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The queries, contiguous."""
        check_feeds(self.artifact, feeds)
        return np.array(feeds["query"], order="C")

    def run(self, prepared: np.ndarray) -> Any:
        """Scores and items, (requests, top) each."""
        return self._index.search(prepared, self._top)

    def fetch(self, outputs: Any) -> np.ndarray:
        """Lists; see ``host_form``."""
        return host_form(outputs)

    def describe(self) -> EngineFacts:
        """The index's kind, and threads as faiss gives them back."""
        import faiss

        return EngineFacts(
            engine="faiss",
            version=faiss.__version__,
            device="cpu",
            precision="fp32",
            provider=type(self._index).__name__,
            threads=faiss.omp_get_max_threads(),
        )


class CodesSearch(FaissSearch):
    """Four-bit codes and exact scores, as the engine ``faiss-cpu`` serves them."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        Engine.__init__(self, artifact, threads=threads)
        import faiss

        faiss.omp_set_num_threads(threads)
        self._items = open_index(artifact.folder)
        self._index = self._items.found

    def run(self, prepared: np.ndarray) -> Any:
        """Scores and items, (requests, top) each."""
        scores, items = find_lists(self._items, prepared, None)
        return scores, items - FIRST
