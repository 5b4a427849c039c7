"""The report of a run: report.md and its plots, made from the rows and the environment."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.comparable import read_environment
from harness.errors import DataError
from harness.report import (
    beyond,
    details,
    fairness,
    importance,
    limits,
    markdown,
    service,
    sureness,
    tensorrt,
)
from harness.report.cells import MIB, Cell, Table
from harness.report.columns import COLUMNS
from harness.report.coverage import coverage_plot
from harness.report.curves import latency_plot, load_plot, throughput_plot
from harness.report.latencies import read_latencies
from harness.report.lines import missed
from harness.report.lookup import Results, results
from harness.report.plots import pareto_plot, speedup_plot
from harness.report.protocol import listed, protocol_lines
from harness.report.tables import best_lines, summary_table
from harness.results import MACHINE, read_rows
from harness.store import write_bytes, write_text

log = logging.getLogger(__name__)


def write_report(folder: Path) -> Path:
    """Make ``report.md`` and ``plots/`` in a run folder again from its rows; gives the page's path.

    Each file is written whole or not at all. Raises ``DataError`` when the rows or the environment
    are missing or damaged, before anything is written.
    """
    rows = read_rows(folder)
    facts = read_environment(folder)
    if not rows:
        raise DataError(f"{folder / 'rows.jsonl'}: holds no rows; run again")
    run = results(rows)
    plots = folder / "plots"
    if plots.is_symlink():  # a link to a folder elsewhere, where nothing is written
        plots.unlink()
    plots.mkdir(exist_ok=True)
    links = {
        name: _picture(folder, name, content) for name, content in _pictures(run, folder).items()
    }
    page = folder / "report.md"
    write_text(page, _render(run, facts, links))
    return page


def _pictures(run: Results, folder: Path) -> dict[str, bytes | None]:
    """The pictures by name; of several tasks each has its own, under its own name."""
    found = {"load": load_plot(run)}
    times = read_latencies(folder)
    for part in run.by_task:
        end = _end(run, part)
        found |= {
            f"pareto{end}": pareto_plot(part),
            f"coverage{end}": coverage_plot(part),
            f"speedup{end}": speedup_plot(part),
            f"throughput{end}": throughput_plot(part),
            f"latency{end}": latency_plot(part, times),
        }
    return found


def _end(run: Results, part: Results) -> str:
    return f"-{part.task.name}" if len(run.by_task) > 1 else ""


def _picture(folder: Path, name: str, content: bytes | None) -> str | None:
    path = folder / "plots" / f"{name}.png"
    if content is None:
        log.info("%s: nothing to draw", path)
        path.unlink(missing_ok=True)
        return None
    write_bytes(path, content)
    return f"plots/{path.name}"


def _render(run: Results, facts: Mapping[str, Any], links: Mapping[str, str | None]) -> str:
    # The page is Markdown: its filters escape for Markdown, HTML escaping would show as text.
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    pages.filters.update(md=markdown.escape, table=markdown.table)
    text = pages.get_template("page.md.jinja").render(
        headline=_headline(run, facts),
        tasks=[_task(run, part, links) for part in run.by_task],
        baselines=[_baseline(run, name, part) for name, part in run.by_baseline.items()],
        gates=details.gates_table(run),
        effects=details.effects_table(run),
        not_run=details.not_run_table(run),
        sizes=details.sizes_table(run),
        data=details.data_table(run),
        engines=details.engines_table(run),
        training=details.training_table(run),
        thread_counts=[n for n in run.thread_counts if n > 1],
        marks=sureness.mark_lines(run),
        load=links["load"],
        **_sections(run),
        protocol=list(protocol_lines(run)),
        environment=_environment_table(facts),
        columns=COLUMNS,
    )
    # Parts that a run lacks leave their blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


NAMES = {"click": "Clicks", "rating": "Ratings", "next_item": "Next items"}


def _task(run: Results, part: Results, links: Mapping[str, str | None]) -> dict[str, Any]:
    """The tables and pictures of one task; its title where the run has several."""
    end, several = _end(run, part), len(run.by_task) > 1
    names = ", ".join(part.by_baseline)
    rows = "Requests" if part.task.lists else "Rows"
    main = details.title(part.main_metric)
    threads = [n for n in part.thread_counts if n > 1]
    return {
        "title": f"{NAMES[part.task.name]} ({main} decides): {names}" if several else None,
        "told": _told(part),
        "best": [f"{names}, {line}" if several else line for line in best_lines(part)],
        "summary": summary_table(part),
        "references": details.references_table(part),
        "by_threads": {n: details.threads_table(part, threads=n) for n in threads},
        "accuracy": details.accuracy_table(part),
        "differences": details.differences_table(part),
        "agreement": details.agreement_table(part),
        "points": details.points_table(part),
        "pictures": {
            f"{caption}: {names}" if several else caption: links[f"{name}{end}"]
            for name, caption in {
                "pareto": "Quality against latency, by engine",
                "coverage": "Quality against catalogue coverage, by engine",
                "speedup": "Speedup at each point, by engine",
                "throughput": f"{rows} a second against the {rows.lower()} of a call, by engine",
                "latency": "Share of requests answered within a time, by engine",
            }.items()
        },
    }


def _told(part: Results) -> str | None:
    """What a reader must know of the task: what a request is where lists are asked for, and which
    way is up where the main metric is an error.
    """
    if part.task.lower_is_better:
        name = details.title(part.main_metric)
        return f"{name} is an error: lower is better, and a positive difference is a loss."
    if not part.task.lists:
        return None
    return (
        f"Next items: each request is answered with a list, {part.list_words}: the full "
        "catalogue, no sampled negatives. A call's batch counts requests."
    )


def _baseline(run: Results, name: str, part: Results) -> dict[str, Any]:
    """What is told of each baseline by itself: its groups, its lists, its fields."""
    return {
        "title": name if len(run.by_baseline) > 1 else None,
        "beyond": beyond.beyond_table(part),
        "fairness": fairness.fairness_table(part),
        "warnings": fairness.warning_lines(part),
        "groups": fairness.groups_table(part),
        "importance": importance.importance_table(part),
        "fields": importance.fields_table(part),
    }


def _sections(run: Results) -> dict[str, dict[str, Any]]:
    """What only some runs have: each section's tables and sentences, and why something lacks."""
    return {
        "judged": {
            "rule": fairness.RULE,
            **{name: missed(run, name) for name in ("beyond", "fairness", "importance")},
        },
        "under_load": {
            "rates": service.sla_table(run),
            "loads": service.load_table(run),
            "probes": service.probes_table(run),
            "missed": missed(run, "server", service.RATE_AT_SLA),
        },
        "cold": {
            "times": service.cold_table(run),
            "told": service.told_lines(run, "cold"),
            "missed": missed(run, "cold"),
        },
        "resources": {
            "costs": service.resources_table(run),
            "told": [*service.price_lines(run), *service.told_lines(run, "resources")],
            "missed": missed(run, "resources"),
        },
        "machine": {
            "peaks": limits.peaks_table(run),
            "shares": [
                (threads, found)
                for part in run.by_task
                for threads in part.thread_counts
                if (found := limits.shares_table(part, threads=threads)).rows
            ],
            "points": limits.roofline_table(run),
            "how": limits.how_table(run),
            "missed": missed(run, "roofline"),
        },
        "tensorrt": {
            "title": tensorrt.check_title(run),
            "checks": tensorrt.check_table(run),
            "rivals": tensorrt.rival_lines(run),
            "missed": missed(run, tensorrt.CHECK),
        },
        "sure": {
            "aa": sureness.aa_table(run),
            "health": sureness.health_table(run),
            "convergence": sureness.convergence_table(run),
            "loadgen": sureness.loadgen_table(run),
            "outputs": [
                found for part in run.by_task if (found := sureness.outputs_table(part)).rows
            ],
            "lines": sureness.trust_lines(run),
            "missed": missed(run, "loadgen", "parity", "health"),
        },
    }


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _headline(run: Results, facts: Mapping[str, Any]) -> dict[str, str]:
    ran, all_ = len(run.ran), len(run.variants)
    recipes = len({one.recipe for one in run.variants})
    times = sorted(row.time for row in run.rows if row.time)
    when = _span(times[0], times[-1]) if times else "at an unknown time"
    memory, gpu = facts.get("memory_bytes"), facts.get("gpu") or "none"
    size = f", {memory / MIB / 1024:.1f} GiB of memory" if isinstance(memory, int | float) else ""
    return {
        "title": f"Compression report: {_one(run, 'baseline')}",
        "what": (
            f"{_count(recipes, 'recipe')} on {_count(len(run.targets), 'target')}: "
            f"{ran} of {_count(all_, 'variant')} ran. "
            f"Run {_one(run, 'run_id')}, {when}, commit {_one(run, 'commit')}."
        ),
        "machine": (
            f"Machine: {facts.get('cpu') or 'unknown CPU'}, {facts.get('threads')} threads usable"
            f"{size}, {facts.get('system')} {facts.get('machine')}, GPU: {gpu}."
        ),
        "data": (
            f"Data {_one(run, 'data_hash')[:12]}, split {_one(run, 'split')}, seed "
            f"{_one(run, 'seed')}."
        ),
    }


def _span(first: str, last: str) -> str:
    return f"at {first}" if first == last else f"from {first} to {last}"


def _one(run: Results, column: str) -> str:
    found = (getattr(row, column) for row in run.rows if row.recipe != MACHINE)
    values = dict.fromkeys(str(value) for value in found if value not in (None, ""))
    return ", ".join(values) or "unknown"


def _environment_table(facts: Mapping[str, Any]) -> Table:
    flat = {
        f"{name}: {inner}" if inner else name: value
        for name, given in facts.items()
        for inner, value in (given.items() if isinstance(given, Mapping) else [("", given)])
    }
    lines = ((Cell(name), Cell(_fact(value))) for name, value in flat.items())
    return Table(("fact", "value"), tuple(lines))


def _fact(value: Any) -> str:
    if value is None:
        return "none"
    return listed(value) if isinstance(value, list) else str(value)
