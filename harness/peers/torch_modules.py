"""What the quantised torch peers share: the bytes that a module would be shipped in."""

import io
from dataclasses import replace

import torch

from harness.engines.base import EngineFacts
from harness.errors import EffectError


def stored_bytes(module: torch.nn.Module) -> int:
    """Bytes of the module's state as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.tell()


def told(facts: EngineFacts, *, engine: str, module: torch.nn.Module) -> EngineFacts:
    """The facts of an int8 module run eagerly, with the bytes it is stored in."""
    notes = {**facts.notes, "bytes": stored_bytes(module)}
    return replace(facts, engine=engine, precision="int8", notes=notes)


def require_changed(module: torch.nn.Module, kind: str, found: int) -> None:
    """Raise ``EffectError`` when a tool replaced no layer of a module."""
    if not found:
        linears = sum(isinstance(part, torch.nn.Linear) for part in module.modules())
        raise EffectError(f"{kind} quantised none of {linears} Linear layers")
