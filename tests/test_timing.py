"""One schedule: who is timed against whom, and what is kept of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.timing import arms_of


def scored(name: str, engine: str, technique: str) -> Any:
    artifact = SimpleNamespace(technique=technique, folder=Path(name))
    target = SimpleNamespace(engine=engine)
    return SimpleNamespace(variant=SimpleNamespace(name=name, artifact=artifact, target=target))


def test_the_first_plain_variant_of_each_engine_is_its_reference() -> None:
    items = [
        scored("plain@ort", "ort-cpu", "reference"),
        scored("int8@ort", "ort-cpu", "closed_like"),
        scored("plain@torch", "torch-cpu", "reference"),
        scored("again@ort", "ort-cpu", "reference"),
    ]
    assert [(arm.name, arm.role) for arm, _ in arms_of(items)] == [
        ("plain@ort", "reference"),
        ("int8@ort", "variant"),
        ("plain@torch", "reference"),
        ("again@ort", "variant"),
    ]
