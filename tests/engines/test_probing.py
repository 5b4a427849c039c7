"""Probes in a child process: what a crash, a hang and nonsense become."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from harness import registry
from harness.engines.base import Probe
from harness.engines.probing import ask_probe, find_package, probe_engine, run_probe, tiny_onnx
from harness.errors import UnsupportedError


def ask(code: str, *, timeout: float = 30.0) -> Probe:
    return ask_probe((sys.executable, "-c", code), name="it", timeout=timeout)


def test_an_answer_is_taken_from_the_last_line() -> None:
    answer = json.dumps({"code": "no_device", "sentence": "none here", "versions": {"x": "1"}})
    probe = ask(f"print('chatter'); print({answer!r})")
    assert probe == Probe("no_device", "none here", {"x": "1"})
    assert not probe.ok


def test_a_hang_is_a_timeout() -> None:
    probe = ask("import time; time.sleep(60)", timeout=0.3)
    assert probe == Probe("timeout", "the probe of it gave no answer within 0.3 s")


def test_a_crash_is_told_with_its_signal() -> None:
    probe = ask("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert probe.code == "abi_mismatch"
    assert "the probe of it was killed by SIGSEGV without an answer" in probe.sentence


@pytest.mark.parametrize(
    "said", ["", "{oops", '{"code": "ok"}', '{"code": "fine", "sentence": "", "versions": {}}']
)
def test_nonsense_is_no_yes(said: str) -> None:
    probe = ask(f"import sys; print({said!r}); sys.exit('last words')")
    assert probe.code == "abi_mismatch"
    assert probe.sentence.endswith("ended with status 1 without an answer: last words")


def test_an_unknown_engine_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError, match="did you mean 'ort-cpu'"):
        probe_engine("ort-cpuu")


def test_probes_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe_engine("torch-cpu")
    monkeypatch.setattr("harness.engines.probing.ask_probe", None)
    assert probe_engine("torch-cpu") is first
    assert first.ok
    assert "torch" in first.versions


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UnsupportedError("too old", code="driver_too_old"), "driver_too_old", "too old"),
        (UnsupportedError("odd"), "unsupported_model", "odd"),
        (ImportError("libx.so.13"), "abi_mismatch", "its libraries don't load: libx.so.13"),
        (MemoryError(), "out_of_memory", "no memory left"),
        (RuntimeError("bad\nlong story"), "build_failed", "RuntimeError: bad"),
    ],
)
def test_exceptions_of_a_probe_become_codes(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, said: str
) -> None:
    class Broken:
        @classmethod
        def probe(cls) -> Probe:
            raise error

    monkeypatch.setattr(registry, "resolve", lambda kind, name: Broken)
    probe = run_probe("it")
    assert probe.code == code
    assert said in probe.sentence
    assert "\n" not in probe.sentence


def test_a_missing_package_names_the_extra() -> None:
    assert find_package("numpy", extra="x") is None
    assert find_package("no-such-thing", extra="fast") == Probe(
        "no_package", "no-such-thing isn't installed; install the 'fast' extra"
    )


def test_the_tiny_graph_doubles(tmp_path: Path) -> None:
    model = onnx.load_from_string(tiny_onnx())
    (out,) = ReferenceEvaluator(model).run(None, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(out, np.full((2, 3), 2))
