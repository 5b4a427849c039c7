"""What a forward pass makes of host numbers, or asks the host for: none, so that it can be recorded
as a CUDA graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from made_lists import CATALOGUES
from torch.utils._python_dispatch import TorchDispatchMode

from harness.artifact import Artifact, ModelSpec
from harness.models import catalogue
from harness.modules import example_feeds, load_module

FROM_HOST = {"aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero"}
"""``torch.tensor(list)``; ``.item()``, ``bool(tensor)``; a size that depends on numbers."""
FORMS: dict[str, dict[str, Any]] = {
    "dlrm": {"dim": 8, "bottom": [16], "top": [32, 16]},
    "dlrm shared": {"dim": 8, "bottom": [16], "top": [32, 16], "shared": True},
    "dlrm fused": {"dim": 8, "bottom": [16], "top": [32, 16], "shared": True, "fused": True},
    "mlp": {"dim": 8, "widths": [32, 16]},
    "mlp folded": {"dim": 8, "widths": [32, 16], "folded": ["brand", "weekday"]},
    "mlp fused": {"dim": 8, "widths": [32, 16], "folded": ["brand"], "fused": True},
    "fm": {},
    "deepfm": {},
    "dcn_v2": {},
    "mf": {},
    "two_embedding": {},
    "neumf": {},
}


class HostNumbers(TorchDispatchMode):
    """Keeps the names of the operators in ``FROM_HOST`` that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function._schema.name
        if name in FROM_HOST:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def host_numbers(artifact: Artifact) -> list[str]:
    module = load_module(artifact)
    feeds = example_feeds(artifact.inputs, requests=3, candidates=5)
    with torch.inference_mode(), HostNumbers() as mode:
        module(**feeds)
    return mode.found


def test_the_mode_finds_them() -> None:
    with HostNumbers() as mode:
        torch.tensor([1, 2])
        torch.ones(2).sum().item()
        torch.ones(2).nonzero()
    assert set(mode.found) == FROM_HOST


@pytest.mark.parametrize("form", FORMS)
def test_click_models_take_none(form: str, save_artifact: Callable[..., Artifact]) -> None:
    spec = ModelSpec(form.split()[0], FORMS[form])
    assert host_numbers(save_artifact(spec, name=form)) == []


@pytest.mark.parametrize("name", [*CATALOGUES, "gru4rec"])
def test_models_of_next_items_take_none_in_a_graph(
    name: str, monkeypatch: pytest.MonkeyPatch, tiny_sequences: Any, tmp_path: Any
) -> None:
    from made_lists import BIASED, TOP, save_lists

    spec = CATALOGUES.get(name, ModelSpec("gru4rec", {"dim": 8, "top": TOP}))
    source = {"source": BIASED} if name == "biased" else {}
    artifact = save_lists(tiny_sequences, spec, tmp_path / "m", **source)
    monkeypatch.setattr(catalogue, "as_graph", lambda: True)
    assert host_numbers(artifact) == []
