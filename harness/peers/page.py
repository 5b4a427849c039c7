"""The tables of a comparison as Markdown: every contestant, who leads, and the README's summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import DataError
from harness.peers.lines import Lead, Line, find_lead
from harness.peers.spec import Entry
from harness.report.cells import DASH, MIB, Cell, Table, significant
from harness.report.markdown import escape, table
from harness.suites.statistics import Interval

BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"
"""What the README's summary stands between."""
OUT = " *"
"""Ends the class of a contestant that keeps too little quality to win."""


def leads(entries: Sequence[Entry], lines: Sequence[Line]) -> list[Lead]:
    """Who leads in every workload at every size of call that was timed."""
    found = []
    for entry in entries:
        for call in entry.calls:
            own = [one for one in lines if (one.workload, one.call) == (entry.name, call)]
            if own:
                target = entry.targets.get(call, entry.target)
                found.append(find_lead(own, target=target, bound=entry.bound, rival=entry.rival))
    return found


def page(entries: Sequence[Entry], lines: Sequence[Line], machine: Mapping[str, Any]) -> str:
    """The whole page."""
    every = leads(entries, lines)
    parts = [
        "# Beside the other toolkits",
        f"Machine: {escape(str(machine['cpu']))}, {', '.join(machine['flags'])}; one thread, "
        f"commit {machine['commit']}. {_protocol(lines)}",
        "Ratios are time of onnxruntime fp32 / time of the contestant (more is faster): geometric "
        "mean over the rounds, with a 95 % bootstrap interval. All contestants of a workload ran "
        "in turns on one core, on the same inputs. Quality is the difference to onnxruntime fp32 "
        f"on the test split; a class marked with{OUT} is too low to win.",
    ]
    for entry in entries:
        own = [one for one in lines if one.workload == entry.name]
        if not own:
            continue
        parts += [f"## {entry.name}", table(contestants(entry, own))]
        parts += [table(_leads_table([lead for lead in every if lead.workload == entry.name]))]
    parts += ["## Summary", summary(every), f"Versions: {_versions(machine)}."]
    return "\n\n".join(parts) + "\n"


def _protocol(lines: Sequence[Line]) -> str:
    counts = sorted({len(line.times) for line in lines if line.times})
    rounds = "no rounds" if not counts else " to ".join(str(n) for n in {counts[0], counts[-1]})
    noise = sorted({line.note for line in lines if line.note})
    noisy = f" The host was noisy: {'; '.join(noise)}." if noise else ""
    return f"Rounds: {rounds}.{noisy}"


def _versions(machine: Mapping[str, Any]) -> str:
    known = {**machine["packages"], **machine.get("peers", {})}
    return ", ".join(f"{name} {version}" for name, version in sorted(known.items()) if version)


def contestants(entry: Entry, lines: Sequence[Line]) -> Table:
    """One row a contestant, one column a size of call."""
    names = list(dict.fromkeys(line.contestant for line in lines))
    rows = []
    for name in names:
        own = {line.call: line for line in lines if line.contestant == name}
        first = next(iter(own.values()))
        times = (_ratio(own[call]) if call in own else DASH for call in entry.calls)
        rows.append((Cell(name), Cell(first.side), *_quality(first, entry), _size(first), *times))
    headers = ("contestant", "whose", "quality", "class", "MiB", *entry.calls)
    return Table(headers, tuple(rows))


def _ratio(line: Line) -> Cell:
    if line.status != "ok" or line.ratio is None:
        return Cell(line.status, line.reason)
    return Cell(interval(line.ratio))


def interval(found: Interval) -> str:
    """``1.83 [1.80, 1.86]``; without bounds the value alone."""
    assert found.value is not None
    if found.low is None or found.high is None:
        return significant(found.value)
    return f"{significant(found.value)} [{significant(found.low)}, {significant(found.high)}]"


def _quality(line: Line, entry: Entry) -> tuple[Cell, Cell]:
    found = line.quality
    if found is None:
        return DASH, DASH
    bounds = "" if found.low is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
    low = line.side != "reference" and found.kept < entry.keep
    change = f"{found.metric} {found.change:+.4f}{bounds}"
    return Cell(change), Cell(found.label + (OUT if low else ""))


def _size(line: Line) -> Cell:
    return DASH if line.bytes is None else Cell(significant(line.bytes / MIB))


def _leads_table(found: Sequence[Lead]) -> Table:
    """One row a size of call: ours, the best peer, and how far apart they are."""
    rows = tuple(
        (
            Cell(lead.call),
            _named(lead.ours),
            _named(lead.peer),
            DASH if lead.lead is None else Cell(interval(lead.lead)),
            Cell(significant(lead.target)),
            Cell(lead.outcome),
            Cell(lead.bound) if lead.bound and lead.outcome != "met" else DASH,
        )
        for lead in found
    )
    headers = ("call", "ours", "best rival", "ours / rival", "target", "", "bound")
    return Table(headers, rows)


def _named(line: Line | None) -> Cell:
    if line is None or line.ratio is None:
        return Cell("none in the class")
    return Cell(f"{line.contestant}: {interval(line.ratio)}")


def summary(found: Sequence[Lead]) -> str:
    """The table of all leads, won or lost, as the README shows it."""
    whole = _leads_table(found)
    rows = zip(found, whole.rows, strict=True)
    return table(
        Table(
            ("workload", *whole.headers),
            tuple((Cell(lead.workload), *row) for lead, row in rows),
        )
    )


def put_between(text: str, content: str, *, where: str) -> str:
    """``text`` with ``content`` in the place of what stands between the two comments.

    Raises ``DataError`` naming ``where`` unless each stands in it once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{where}: expected one line {BEGIN!r} and below it one {END!r}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.partition(END)[2]}"
