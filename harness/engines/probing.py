"""Whether an engine can run here, asked in a child process that may crash or hang.

``python -m harness.engines.probing NAME`` prints the engine's own probe as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from harness import registry
from harness.engines.base import Probe, ProbeCode
from harness.errors import UnsupportedError
from harness.process import child_environment, claim_stdout, ended_how


@cache
def probe_engine(name: str, *, timeout: float = 60.0) -> Probe:
    """Whether the engine called ``name`` can run here; asked once per process.

    Never raises for an engine's own fault: a crash, a hang or an unreadable answer is a ``Probe``
    with a code and a sentence. Raises ``KeyError`` for a name that isn't in the catalog.
    """
    registry.entry("engines", name)
    command = (sys.executable, "-m", "harness.engines.probing", name)
    return ask_probe(command, name=name, timeout=timeout)


def ask_probe(command: Sequence[str], *, name: str, timeout: float) -> Probe:
    """The probe that ``command`` prints, or what became of it."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=child_environment(threads=1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe("timeout", f"the probe of {name} gave no answer within {timeout:g} s")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return Probe(probe_code(answer["code"]), str(answer["sentence"]), dict(answer["versions"]))
    except (IndexError, ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        how = ended_how(done.returncode)
        return Probe("abi_mismatch", f"the probe of {name} {how} without an answer: {last}")


def probe_code(text: str) -> ProbeCode:
    """The code of that name; raises ``ValueError`` for any other."""
    if text not in get_args(ProbeCode):
        raise ValueError(f"unknown probe code {text!r}")
    return text  # type: ignore[return-value]


def find_package(name: str, *, extra: str, distribution: str | None = None) -> Probe | None:
    """None when a package is installed, else the probe that says how to get it; imports nothing."""
    try:
        version(distribution or name)
    except PackageNotFoundError:
        wanted = distribution or name
        return Probe("no_package", f"{wanted} isn't installed; install the {extra!r} extra")
    return None


def tiny_onnx() -> bytes:
    """A serialised graph ``y = x + x`` over (rows, 3) float32."""
    from onnx import TensorProto, checker, helper

    shape: list[str | int | None] = ["rows", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def run_probe(name: str) -> Probe:
    """The engine's own probe, run in this process; its exceptions become codes."""
    try:
        probe: Probe = registry.resolve("engines", name).probe()  # type: ignore[attr-defined]
    except UnsupportedError as error:
        code = error.code if error.code in get_args(ProbeCode) else "unsupported_model"
        return Probe(probe_code(code), str(error))
    except ImportError as error:
        return Probe("abi_mismatch", f"{name}: its libraries don't load: {error}")
    except MemoryError:
        return Probe("out_of_memory", f"{name}: no memory left for a tiny model")
    except Exception as error:  # whatever a library raises is the answer to the question asked
        if "out of memory" in str(error).lower():
            return Probe("out_of_memory", f"{name}: no memory left for a tiny model")
        return Probe("build_failed", f"{name}: a tiny model failed: {_told(error)}")
    return probe


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def main(name: str) -> None:
    """Write one probe to the process's own stdout as JSON."""
    answers = claim_stdout()
    answers.write(json.dumps(asdict(run_probe(name))) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
