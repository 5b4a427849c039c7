"""An artifact: a handle on the files of one variant, with what made it and what it takes and gives.

A folder holds ``artifact.json``, the schema and vocabularies, and either ``weights.safetensors``
(torch), ``model.onnx`` and its side files (faiss: an index beside them), or ``model.plan``
(TensorRT). It can be scored from that folder alone, in a new process, and nothing in it is
unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import DataError
from harness.strict_json import load_json
from harness.tables import TensorSpec

Format = Literal["torch", "onnx", "tensorrt", "faiss"]
Technique = Literal["reference", "closed_like", "open_like"]

WEIGHTS = {
    "torch": "weights.safetensors",
    "onnx": "model.onnx",
    "tensorrt": "model.plan",
    "faiss": "model.onnx",
}
DTYPES = ("int32", "int64", "float16", "float32")
"""What inputs and outputs may be."""
LARGEST_AXIS = 1 << 24
"""Most values along a fixed axis of an input or output."""
_NOT_MODEL = {"artifact.json", "schema.json", "vocabulary.json", "complete.json", "history.json"}


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that a stage changed: before, after, and what was asked for (same unit as after;
    None when the stage's parameters don't fix it).
    """

    name: str
    before: float
    after: float
    asked: float | None = None
    unit: str = "count"


@dataclass(frozen=True, slots=True)
class Step:
    """One stage as it was run."""

    stage: str
    parameters: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    effects: tuple[Effect, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to rebuild a torch module: a catalog name, its parameters, the copied source file of a
    user's own model (a name inside the artifact's folder), and the ``layers`` that have another
    form than the model's class gives them, by name (``harness.compressed``).
    """

    name: str
    parameters: Mapping[str, Any]
    source: str | None = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A frozen description; ``folder`` holds the files."""

    folder: Path
    format: Format
    model: ModelSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    technique: Technique = "reference"
    precision: str = "fp32"
    parameters: int = 0
    """Numbers stored in the model (weights, tables, scales)."""
    embedding_parameters: int = 0
    macs: int = 0
    """Multiply-accumulates of one scored row (one user, one candidate)."""
    widths: Mapping[str, tuple[int, ...]] | None = None
    """Shape of every Linear weight, by name."""
    lineage: tuple[Step, ...] = ()

    @property
    def file(self) -> Path:
        """The main model file."""
        return self.folder / WEIGHTS[self.format]

    @property
    def bytes(self) -> int:
        """Bytes of all model files, external data included (schema and vocabularies not)."""
        beside = _NOT_MODEL | {self.model.source}
        files = (path for path in self.folder.iterdir() if path.name not in beside)
        return sum(path.stat().st_size for path in files)

    @property
    def key(self) -> str:
        """The store's key, which is the folder's name."""
        return self.folder.name


def write_artifact(artifact: Artifact) -> Artifact:
    """Write ``artifact.json`` into the artifact's folder; gives the artifact back."""
    data = asdict(artifact)
    del data["folder"]
    (artifact.folder / "artifact.json").write_text(json.dumps(data, indent=1, allow_nan=False))
    return artifact


def read_artifact(folder: Path) -> Artifact:
    """The artifact in a folder; raises ``DataError`` when it isn't one."""
    path = folder / "artifact.json"
    try:
        return _checked(_from_json(folder, load_json(path)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not an artifact ({error!r}); remake it with run") from error


def _from_json(folder: Path, data: dict[str, Any]) -> Artifact:
    lineage = tuple(
        Step(
            **{
                **step,
                "effects": tuple(Effect(**effect) for effect in step["effects"]),
                "notes": tuple(step["notes"]),
            }
        )
        for step in data.pop("lineage")
    )
    inputs, outputs = (tuple(map(_tensor, data.pop(name))) for name in ("inputs", "outputs"))
    widths = {name: tuple(shape) for name, shape in (data.pop("widths") or {}).items()}
    model = ModelSpec(**data.pop("model"))
    return Artifact(
        folder, model=model, inputs=inputs, outputs=outputs, widths=widths, lineage=lineage, **data
    )


def _checked(artifact: Artifact) -> Artifact:
    """The artifact; raises ``ValueError`` where a name or number isn't one that could be written,
    so that no file outside of the folder is read, let alone run.
    """
    model, tensors = artifact.model, (*artifact.inputs, *artifact.outputs)
    if artifact.format not in WEIGHTS:
        raise ValueError(f"format {artifact.format!r}")
    if not isinstance(model.name, str) or not isinstance(model.parameters, dict):
        raise TypeError(f"model {model.name!r} of {model.parameters!r:.100}")
    source = model.parameters.get("path") if model.source is None else model.source
    if source is not None and (source is not model.source or not _is_name(source)):
        raise ValueError(f"model source {source!r}, expected the name of a file beside it")
    for each in tensors:
        sizes = [size for size in each.shape if not isinstance(size, str)]
        if each.dtype not in DTYPES or not all(
            type(s) is int and 0 < s <= LARGEST_AXIS for s in sizes
        ):
            raise ValueError(f"{each.name!r} is {each.dtype!r} of {each.shape}")
    return artifact


def _is_name(text: object) -> bool:
    return isinstance(text, str) and text == Path(text).name and text not in ("", "..")


def _tensor(data: dict[str, Any]) -> TensorSpec:
    return TensorSpec(
        data["name"], data["dtype"], tuple(data["shape"]), tuple(data.get("fields", ()))
    )


def with_step(artifact: Artifact, step: Step) -> Artifact:
    """The same artifact with one more step in its lineage, written to its folder."""
    return write_artifact(replace(artifact, lineage=(*artifact.lineage, step)))
