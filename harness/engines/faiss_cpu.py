"""The faiss engine on the CPU: onnxruntime makes the queries, faiss finds the items."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from harness.artifact import Artifact
from harness.engines.base import Engine, EngineFacts, Probe, check_feeds, engine, host_form
from harness.engines.graph import executed_graph
from harness.engines.ort_cpu import PROVIDER, open_session, session_options
from harness.engines.probing import find_package
from harness.item_index import open_index, read_facts
from harness.item_lists import find_lists


@engine(accepts="faiss", device="cpu", reference="ort-cpu")
class FaissCpu(Engine):
    """onnxruntime and a faiss index on the CPU, for catalogues of next items."""

    PACKAGE: ClassVar[str] = "faiss"

    @classmethod
    def probe(cls) -> Probe:
        """Finds the nearest of three vectors; onnxruntime has to be there too."""
        missing = find_package("faiss", extra="faiss", distribution="faiss-cpu") or find_package(
            "onnxruntime", extra="ort"
        )
        if missing:
            return missing
        import faiss
        import onnxruntime

        versions = {"faiss": faiss.__version__, "onnxruntime": onnxruntime.__version__}
        index = faiss.IndexFlatIP(3)
        index.add(np.eye(3, dtype=np.float32))
        _, items = index.search(np.array([[0, 2, 1]], np.float32), 3)
        if items.tolist() != [[1, 2, 0]]:
            return Probe("build_failed", f"faiss ordered three items {items.tolist()}", versions)
        return Probe("ok", versions=versions)

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        super().__init__(artifact, threads=threads)
        import faiss

        self._session = open_session(artifact, threads=threads)
        self._index = open_index(artifact.folder)
        self._queries = [self._index.spec.queries]
        self._before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(threads)

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Contiguous arrays by input name."""
        check_feeds(self.artifact, feeds)
        return {name: np.array(array, order="C") for name, array in feeds.items()}

    def run(self, prepared: dict[str, np.ndarray]) -> Any:
        """Scores and items, (requests, top) each."""
        (queries,) = self._session.run(self._queries, prepared)
        return find_lists(self._index, queries, prepared.get("seen"))

    def fetch(self, outputs: Any) -> np.ndarray:
        """Lists; see ``host_form``."""
        return host_form(outputs)

    def describe(self) -> EngineFacts:
        """The precision of the graph that makes the queries, and the index's kind; threads as both
        libraries give them back, the larger where they differ.
        """
        import faiss

        facts = executed_graph(self.artifact.file, session_options(1), [PROVIDER])
        own = int(self._session.get_session_options().intra_op_num_threads)
        return EngineFacts(
            engine="faiss-cpu",
            version=faiss.__version__,
            device="cpu",
            precision=f"{facts.precision}, {self._index.spec.kind} index",
            provider=type(self._index.found).__name__,
            threads=max(own, faiss.omp_get_max_threads()),
            notes={
                **read_facts(self._index),
                "simd": faiss.SIMDConfig.get_level_name(),
                "products": facts.products,
                "operators": facts.operators,
            },
        )

    def close(self) -> None:
        """Give the process its thread count back."""
        import faiss

        faiss.omp_set_num_threads(self._before)
