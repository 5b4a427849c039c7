"""ONNX artifacts for the stages that start from one; exported once, copied for each test."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_lists import BIASED, CATALOGUES, lists_context, save_lists

from harness.artifact import Artifact, read_artifact
from harness.stages.base import Context
from harness.stages.export_onnx import export_onnx
from harness.tables import Prepared


@pytest.fixture(scope="session")
def _exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def onnx_artifact(
    tiny_artifact: Artifact, make_context: Callable[..., Context], _exported: Path, tmp_path: Path
) -> Artifact:
    """The trained tiny DLRM as an ONNX artifact in a folder of its own."""
    return _once(tiny_artifact, make_context, _exported / "dlrm", tmp_path / "onnx-dlrm")


@pytest.fixture
def onnx_rec(
    rec_artifact: Artifact, make_context: Callable[..., Context], _exported: Path, tmp_path: Path
) -> Artifact:
    """The user's own flat model as an ONNX artifact in a folder of its own."""
    return _once(rec_artifact, make_context, _exported / "rec", tmp_path / "onnx-rec")


def _once(
    artifact: Artifact, make_context: Callable[..., Context], shared: Path, own: Path
) -> Artifact:
    if not shared.exists():
        made = export_onnx(artifact, make_context(f"shared-{shared.name}")).artifact
        shutil.copytree(made.folder, shared)
    shutil.copytree(shared, own)
    return read_artifact(own)


@pytest.fixture(scope="session")
def catalogues(
    tiny_sequences: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Artifact, Artifact]]:
    """``catalogues(name)``: a model of ``CATALOGUES`` and its ONNX file, exported once."""
    folder, known = tmp_path_factory.mktemp("catalogues"), dict[str, tuple[Artifact, Artifact]]()

    def make(name: str) -> tuple[Artifact, Artifact]:
        if name not in known:
            source = {"source": BIASED} if name == "biased" else {}
            artifact = save_lists(tiny_sequences, CATALOGUES[name], folder / name, **source)
            context = lists_context(tiny_sequences, artifact, folder / f"{name}-onnx")
            known[name] = artifact, export_onnx(artifact, context).artifact
        return known[name]

    return make
