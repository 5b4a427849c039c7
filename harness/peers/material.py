"""What a peer's tool gets to make its files from, and the description beside those files."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.artifact import Artifact, write_artifact
from harness.errors import EffectError
from harness.modules import copy_description
from harness.stages.graphs import Feeds, draw_rows, graph_facts, row_batches
from harness.tables import Prepared

CALIBRATION_ROWS = 4096
"""As many as our own ``quantize_static`` takes, and the same ones."""


@dataclass(frozen=True)
class Material:
    """``start`` is an exported or torch artifact, or a table's; ``folder`` is empty; without
    ``data`` nothing can be calibrated.
    """

    start: Artifact
    folder: Path
    data: Prepared | None = None
    seed: int = 0

    @property
    def file(self) -> Path:
        """Where the made graph goes."""
        return self.folder / "model.onnx"

    def batches(self) -> Iterator[Feeds]:
        """Training rows to calibrate on, 256 at a time, each a request of one candidate."""
        assert self.data is not None, "no data to calibrate on"
        split = self.data.splits["train"]
        rows = draw_rows(split, count=CALIBRATION_ROWS, seed=self.seed)
        return row_batches(self.data, split, rows, self.start.inputs)

    def table(self) -> np.ndarray:
        """The numbers of a table's artifact, (rows, dim) float32."""
        from safetensors.numpy import load_file

        found: np.ndarray = load_file(self.start.file)["table"]
        return found


def describe_graph(material: Material, *, precision: str, made_of: tuple[str, ...]) -> Artifact:
    """Describe the graph that was written to ``material.file``.

    Raises ``EffectError`` when it has no operator of ``made_of``: the tool then left it as it was.
    """
    import onnx

    facts = graph_facts(onnx.load(material.file))
    if not any(facts.operators.get(name) for name in made_of):
        raise EffectError(f"the tool changed nothing: the graph has no {' or '.join(made_of)}")
    if (material.start.folder / "schema.json").exists():
        copy_description(material.start, material.folder)
    return write_artifact(
        replace(
            material.start,
            folder=material.folder,
            format="onnx",
            precision=precision,
            parameters=facts.parameters,
            embedding_parameters=facts.embedding_parameters,
        )
    )
