"""The peers, one line each: what they start from, what makes their files, what runs them.

Nothing here is imported until it is used; a peer whose package is missing is skipped by name.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from harness import registry

Kind = Literal["model", "bags", "search"]
Side = Literal["reference", "ours", "peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One contestant that a kind of workload always has.

    ``start`` is the artifact it is made from: the baseline's torch module, its exported file, or a
    bare table. ``make`` writes its files ("module:function" of this folder; None: it takes the
    start's as they are). ``engine`` is one of the catalog or of ``ENGINES``. ``bits`` are those of
    a stored row; a peer of 32 is in every workload of bags.
    """

    name: str
    engine: str
    make: str | None = None
    packages: tuple[str, ...] = ()
    side: Side = "peer"
    bits: int = 32
    kind: Kind = "model"
    start: Literal["torch", "onnx", "table"] = "onnx"


ENGINES: Mapping[str, str] = {
    "openvino-ir": "openvino_nncf:OpenVinoIr",
    "torch-compiled": "torch_compiled:TorchCompiled",
    "torch-int8": "torch_dynamic:TorchDynamic",
    "torchao-int8": "torch_ao:TorchAo",
    "torch-bag": "torch_bags:TorchBag",
    "torch-bag-int8": "torch_bags:TorchByteBag",
    "torch-bag-int4": "torch_bags:TorchNibbleBag",
    "faiss": "faiss_search:FaissSearch",
    "faiss-codes": "faiss_search:CodesSearch",
}
"""Engines that only peers run on, beside those of the catalog."""

REFERENCE = "onnxruntime fp32"
"""The contestant that all ratios are against, in every workload."""

_ORT, _NNCF, _FAISS = ("onnxruntime",), ("openvino", "nncf"), ("faiss",)
_TORCH = partial(Peer, start="torch")
_BAGS = partial(Peer, kind="bags", start="table")
_SEARCH = partial(Peer, kind="search", start="table")

_ROWS = (
    Peer(REFERENCE, "ort-cpu", None, _ORT, "reference"),
    Peer("onnxruntime dynamic int8", "ort-cpu", "ort_dynamic:make", _ORT),
    Peer("onnxruntime static int8", "ort-cpu", "ort_static:make_products", _ORT),
    Peer("onnxruntime static int8, all operators", "ort-cpu", "ort_static:make_all", _ORT),
    Peer("onnxruntime MatMulNBits 8", "ort-cpu", "ort_nbits:make", _ORT),
    Peer("OpenVINO fp32", "openvino-cpu", None, ("openvino",)),
    Peer("OpenVINO + NNCF int8", "openvino-ir", "openvino_nncf:make", _NNCF),
    _TORCH("torch eager", "torch-cpu"),
    _TORCH("torch.compile", "torch-compiled"),
    _TORCH("torch dynamic int8", "torch-int8"),
    _TORCH("torchao dynamic int8", "torchao-int8", None, ("torchao",)),
    _BAGS(REFERENCE, "ort-cpu", "ort_bags:make_fp32", _ORT, "reference"),
    _BAGS("row-wise int8, plain", "ort-cpu", "ort_bags:make_plain8", _ORT, "ours", 8),
    _BAGS("row-wise int8, block", "ort-cpu", "ort_bags:make_block8", _ORT, "ours", 8),
    _BAGS("row-wise int8, native", "ort-cpu", "ort_bags:make_native8", _ORT, "ours", 8),
    _BAGS("row-wise int4, plain", "ort-cpu", "ort_bags:make_plain4", _ORT, "ours", 4),
    _BAGS("row-wise int4, block", "ort-cpu", "ort_bags:make_block4", _ORT, "ours", 4),
    _BAGS("row-wise int4, native", "ort-cpu", "ort_bags:make_native4", _ORT, "ours", 4),
    _BAGS("torch embedding_bag fp32", "torch-bag"),
    _BAGS("torch embedding_bag int8", "torch-bag-int8", "torch_bags:make8", bits=8),
    _BAGS("torch embedding_bag int4", "torch-bag-int4", "torch_bags:make4", bits=4),
    _SEARCH(REFERENCE, "ort-cpu", "ort_search:make", _ORT, "reference"),
    _SEARCH("4-bit codes, rescored", "faiss-codes", "faiss_search:make_codes", _FAISS, "ours"),
    _SEARCH("int8 scan, native", "ort-cpu", "scan_search:make8", _ORT, "ours"),
    _SEARCH("int4 scan, native", "ort-cpu", "scan_search:make4", _ORT, "ours"),
    _SEARCH("faiss flat", "faiss", "faiss_search:make_flat", _FAISS),
    _SEARCH("faiss HNSW", "faiss", "faiss_search:make_hnsw", _FAISS),
)

DISTRIBUTIONS: Mapping[str, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "nncf": "nncf",
    "torchao": "torchao",
    "faiss": "faiss-cpu",
}
"""Package as imported -> as installed."""


def peers(kind: Kind, *, bits: int = 32) -> tuple[Peer, ...]:
    """The contestants of a kind of workload, the reference first; of bags those of ``bits`` and
    the fp32 ones.
    """
    return tuple(peer for peer in _ROWS if peer.kind == kind and peer.bits in (32, bits))


def find_peer(kind: Kind, name: str) -> Peer:
    """The peer of that name; raises ``KeyError``."""
    found = next((p for p in _ROWS if p.kind == kind and p.name == name), None)
    if found is None:
        raise KeyError(f"unknown {kind} peer {name!r}")
    return found


def why_missing(peer: Peer) -> str | None:
    """The sentence that says which package a peer lacks here; None when it lacks none."""
    lacking = [name for name in peer.packages if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    names = " ".join(DISTRIBUTIONS[name] for name in lacking)
    return f"not installed here: {names}; make peers sets up .venv-peers with it"


def peer_versions() -> dict[str, str | None]:
    """Versions of the packages that peers are made of; None where one isn't installed."""
    return {name: _version(name) for name in sorted(DISTRIBUTIONS.values())}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def resolve(target: str) -> Any:
    """What "module:attribute" of this folder names, imported now."""
    module, attribute = target.split(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)


def find_engine(name: str) -> Any:
    """The engine's class: a peer's own, or one of the catalog."""
    return resolve(ENGINES[name]) if name in ENGINES else registry.resolve("engines", name)


def source_of(target: str) -> Path:
    """The file that "module:attribute", or the engine of that name, stands in."""
    if ":" not in target and target not in ENGINES:
        return registry.entry("engines", target).source
    return Path(__file__).parent / f"{ENGINES.get(target, target).split(':')[0]}.py"
