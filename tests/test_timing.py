"""One schedule: who is timed against whom, and what is kept of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.profile import PROFILES, Bench
from harness.tasks import TASKS
from harness.timing import arms_of, copies_of, loads_of


def scored(name: str, engine: str, technique: str, **bench: Any) -> Any:
    artifact = SimpleNamespace(technique=technique, folder=Path(name))
    target = SimpleNamespace(engine=engine)
    recipe = SimpleNamespace(bench=Bench(**bench))
    return SimpleNamespace(
        variant=SimpleNamespace(name=name, artifact=artifact, target=target, recipe=recipe)
    )


def test_a_copy_is_asked_what_its_original_is_and_no_more() -> None:
    arms = arms_of([scored("plain@ort", "ort-cpu", "reference", batches=(1, 8), candidates=5)])
    (copy,) = copies_of([arm for arm, _ in arms])
    for task, candidates in (("click", 5), ("next_item", 1)):
        loads = loads_of(arms, PROFILES["default"].load, TASKS[task])
        assert loads[copy.name] == loads["plain@ort"]
        assert (loads[copy.name].batches, loads[copy.name].candidates) == ((1, 8), candidates)


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
