"""Each code that a probe of a GPU engine can give, produced in a child process or by a stand-in."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from fake_tensorrt import FakeTensorRt

from harness import registry
from harness.cuda import Device
from harness.engines import device as device_file
from harness.engines import ort_cuda, torch_cuda
from harness.engines.base import Probe, ProbeCode
from harness.engines.ort_cuda import OrtCuda
from harness.engines.ort_cuda_graph import OrtCudaGraph
from harness.engines.probing import ask_probe, run_probe
from harness.engines.tensorrt import TensorRt
from harness.engines.torch_cuda import TorchCuda
from harness.errors import UnsupportedError

GPU = tuple(
    name
    for name in registry.names("engines")
    if registry.entry("engines", name).marks["device"] == "cuda"
)
CHILD = """
from harness.engines import probing
from harness.errors import UnsupportedError
from harness import registry
class Planted:
    @classmethod
    def probe(cls):
        {body}
registry.resolve = lambda kind, name: Planted
probing.main("planted")
"""


def asked(body: str, *, timeout: float = 60.0) -> Probe:
    command = (sys.executable, "-c", CHILD.format(body=body))
    return ask_probe(command, name="planted", timeout=timeout)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("import time; time.sleep(60)", "timeout", "no answer within 1 s"),
        ("raise MemoryError", "out_of_memory", "no memory left"),
        ("raise RuntimeError('bad kernel')", "build_failed", "RuntimeError: bad kernel"),
        ("raise ImportError('libcudart.so.13')", "abi_mismatch", "don't load: libcudart.so.13"),
        ("import os; os.abort()", "abi_mismatch", "SIGABRT"),
        (
            "raise UnsupportedError('runs on the CPU', code='silent_fallback')",
            "silent_fallback",
            "runs on the CPU",
        ),
        ("raise UnsupportedError('odd')", "unsupported_model", "odd"),
        (
            "import torch; raise torch.OutOfMemoryError('CUDA out of memory')",
            "out_of_memory",
            "no memory left",
        ),
    ],
)
def test_what_becomes_of_a_child_is_a_code(body: str, code: str, said: str) -> None:
    probe = asked(body, timeout=1.0 if code == "timeout" else 60.0)
    assert probe.code == code
    assert said in probe.sentence


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``device()``: the driver finds a card; ``device(code=...)``: it doesn't, for that reason."""

    def put(code: str = "") -> None:
        def find(library: str = "") -> Device:
            if code:
                raise UnsupportedError(f"no CUDA device: {code}", code=code)
            return Device("Some Card 80GB", (9, 0), 13000)

        monkeypatch.setattr(device_file, "find_device", find)

    return put


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``packages(...)``: what is installed, by distribution."""

    def put(**versions: str) -> None:
        found = {name.replace("_", "-"): version for name, version in versions.items()}
        for module in ("ort_cuda", "ort_cuda_graph", "tensorrt"):
            monkeypatch.setattr(f"harness.engines.{module}.installed", found.get)
        monkeypatch.setattr(torch.version, "cuda", found.get("torch"))

    return put


ALL = {"onnxruntime_gpu": "1.31", "tensorrt": "11.0", "torch": "13.0"}


@pytest.mark.parametrize("name", GPU)
@pytest.mark.parametrize(
    "code", ["no_driver", "no_device", "driver_too_old", "capability_too_low", "out_of_memory"]
)
def test_the_driver_is_asked_after_the_package_and_before_any_model(
    name: str, code: str, device: Any, packages: Any
) -> None:
    engine: Any = registry.resolve("engines", name)
    device(code)
    packages(**ALL)
    assert engine.probe() == Probe(code, f"no CUDA device: {code}")
    packages()
    probe = engine.probe()
    assert probe.code == "no_package"
    assert probe.sentence.endswith(f"; no CUDA device: {code}")


@pytest.mark.parametrize("name", ["torch-cuda", "torch-cuda-compiled", "torch-cuda-graph"])
def test_a_torch_that_does_not_see_the_card_is_of_another_kind(
    name: str, device: Any, packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    packages(**ALL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engine: Any = registry.resolve("engines", name)
    probe = engine.probe()
    assert probe.code == "abi_mismatch"
    assert "finds no CUDA device, the driver does" in probe.sentence


def test_a_product_that_is_wrong_is_no_yes() -> None:
    assert torch_cuda._judged(torch.full((3, 2), 4.0)).ok
    probe = torch_cuda._judged(torch.tensor([4.0, 3.5]))
    assert (probe.code, probe.sentence) == ("build_failed", "torch on CUDA gave 3.5 for 4")


@pytest.mark.parametrize("kind", [OrtCuda, OrtCudaGraph])
def test_a_session_that_falls_back_is_told(
    kind: type[OrtCuda], device: Any, packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real onnxruntime of this machine, the CPU build, asked for CUDA."""
    device()
    packages(**ALL)
    monkeypatch.setattr("harness.engines.ort_cuda_graph.torch_stream", SimpleNamespace)
    monkeypatch.setattr(registry, "resolve", lambda _, name: kind)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        probe = run_probe("it")
    assert probe.code in ("silent_fallback", "unsupported_model")
    assert "CUDA" in probe.sentence


def test_a_graph_that_a_session_refuses_has_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def refuse(text: str) -> None:
        def session(*args: object, **more: object) -> None:
            raise RuntimeError(f"{text}\nmore")

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)

    for text, code in (
        ("This session cannot use the graph capture feature", "unsupported_model"),
        ("Failed to allocate memory for requested buffer", "out_of_memory"),
    ):
        refuse(text)
        with pytest.raises(UnsupportedError, match=text) as caught:
            ort_cuda.open_cuda(b"", threads=1, fallback=True, graph=True)
        assert caught.value.code == code


def test_a_tiny_network_that_is_not_built_is_told(
    device: Any, packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tiny(FakeTensorRt):
        """With what a network of one layer takes."""

        ActivationType = SimpleNamespace(RELU="RELU")

        def Builder(self, logger: Any) -> Any:
            builder = super().Builder(logger)
            end = SimpleNamespace(name="")
            layer = SimpleNamespace(get_output=lambda at: end)
            network = SimpleNamespace(
                add_input=lambda *about: end,
                add_activation=lambda *about: layer,
                mark_output=lambda tensor: None,
            )
            builder.create_network = lambda flags=0: network  # type: ignore[method-assign,assignment]
            builder._logger = SimpleNamespace(log=lambda severity, message: None)
            return builder

    device()
    packages(**ALL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fake = Tiny("Float", unbuilt="no kernel")
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    assert TensorRt.probe().code == "build_failed"
    fake.unbuilt, fake.full = "", True
    assert TensorRt.probe().code == "out_of_memory"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TensorRt.probe().code == "no_package"


def test_no_code_is_left_out() -> None:
    """Each code but that of a yes is named by a test here."""
    text = Path(__file__).read_text()
    assert [code for code in get_args(ProbeCode) if f'"{code}"' not in text and code != "ok"] == []
    assert TorchCuda.NAME in GPU
