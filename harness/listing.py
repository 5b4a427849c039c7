"""What the catalog holds, in lines: names, parameters, and whether an engine can run here."""

from collections.abc import Iterator

from harness import registry
from harness.engines.probing import probe_engine


def catalog_lines(kind: str) -> Iterator[str]:
    """A line for each entry of a kind, its parameters below it, and of engines why they can't run
    here.
    """
    for name in registry.names(kind):
        entry = registry.entry(kind, name)
        marks = ", ".join(f"{key} {value}" for key, value in entry.marks.items())
        yield f"{name}: {entry.summary}" + (f" [{marks}]" if marks else "")
        if entry.parameters:
            parameters = ", ".join(f"{key}: {text}" for key, text in entry.parameters.items())
            yield f"    {parameters}"
        if kind == "engines":
            yield f"    {_availability(name)}"


def _availability(engine: str) -> str:
    probe = probe_engine(engine)
    return "can run here" if probe.ok else f"can't run here: {probe.code}: {probe.sentence}"
