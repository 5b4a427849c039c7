"""torch.compile's facts, with the eager compiler on the CPU: the counting is torch's own."""

from collections.abc import Iterator

import pytest
import torch

from harness.engines import compiling
from harness.engines.compiling import CompiledCall, compile_notes, forget
from harness.errors import UnsupportedError


class Broken(torch.nn.Module):
    """Asks the host on the way, which breaks a graph in two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if bool((x > 0).any()) else x


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget()
    yield
    forget()


def compiled(module: torch.nn.Module, *sizes: int, free: bool = False) -> CompiledCall:
    call = CompiledCall(module, free=free, most=4, backend="eager")
    for size in sizes:
        call.compile_for({"x": torch.ones(size, 2)}, synchronize=lambda: None)
    return call


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_each_size_is_compiled_once() -> None:
    call = compiled(Twice(), 2, 3, 3, 2)
    assert call({"x": torch.ones(3, 2)}).sum().item() == 12
    notes = compile_notes(call)
    assert (notes["sizes"], notes["recompiles"], notes["graph_breaks"]) == (2, 1, 0)
    assert notes["compile_seconds"] > 0
    assert "break_reasons" not in notes
    assert not call.full


def test_kernels_for_any_size_are_compiled_once() -> None:
    call = compiled(Twice(), 5, 6, 7, 8, free=True)
    notes = compile_notes(call)
    assert (notes["sizes"], notes["recompiles"]) == (0, 0)
    assert not call.full


def test_a_graph_break_is_counted_and_its_reason_told() -> None:
    notes = compile_notes(compiled(Broken(), 2, 3))
    assert notes["graph_breaks"] == 1
    assert notes["recompiles"] == 2  # both parts, for the second size
    assert "Unsupported" in notes["break_reasons"][0] or "item" in notes["break_reasons"][0]


def test_over_torchs_limit_it_raises_where_torch_would_run_eager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "SPARE", 0)
    call = compiled(Twice(), 2, 3, 4, 5)
    assert call.full
    with pytest.raises(UnsupportedError, match="compiled one function 4 times") as caught:
        call.compile_for({"x": torch.ones(6, 2)}, synchronize=lambda: None)
    assert caught.value.code == "unsupported_model"


def test_a_compiler_that_fails_is_named() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no C compiler")

    call = CompiledCall(Twice(), free=False, most=1, backend=broken)
    with pytest.raises(UnsupportedError, match=r"can't compile the model: .*no C compiler") as told:
        call.compile_for({"x": torch.ones(2, 2)}, synchronize=lambda: None)
    assert told.value.code == "build_failed"
