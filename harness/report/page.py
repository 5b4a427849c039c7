"""The report of a run: report.md and its plots, made from the rows and the environment."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.comparable import read_environment
from harness.errors import DataError
from harness.report import details, markdown
from harness.report.cells import MIB, Cell, Table
from harness.report.lookup import TIMED, Results, is_reference, results
from harness.report.plots import pareto_plot, speedup_plot
from harness.report.tables import best_lines, summary_table
from harness.results import Row, read_rows
from harness.store import write_bytes, write_text

log = logging.getLogger(__name__)

ACCURACY_LEVEL, TIME_LEVEL = 95, 99
"""Percent of the intervals of quality (over users) and of speedups (over pairs)."""
AA_BOUNDS = (0.95, 1.05)

COLUMNS = (
    ("variant, target", "the recipe, and the engine it was asked to run on"),
    ("difference [CI]", "variant minus baseline on the same rows, with its interval over users"),
    (
        "class",
        "share of the baseline's main metric that is kept at the interval's lower bound: at least "
        "99.9 %, at least 99 %, or below",
    ),
    ("b1, b64, ...", "speedup [CI] for a call of that many single rows"),
    ("1x256", "speedup [CI] for one request of 256 candidates (and so on for other numbers)"),
    ("p50", "median latency of one call; compare it within a run only"),
    ("size", "bytes of every file that is needed to score"),
    ("peak memory", "largest resident memory of a fresh process that loads and scores"),
    (
        "verdict",
        "in words: faster or slower only where the whole interval lies beyond what two processes "
        "of one model may differ by (3 %, or the A/A ratio if that is more); else no difference "
        "shown; inconclusive where the controls failed",
    ),
    ("A/A", "the baseline measured against a second copy of itself: how much is noise"),
    ("n/a", "no number, for the reason in the numbered line under the table"),
    ("-", "nothing to show: the variant did not run, or nothing was asked"),
)


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
    pictures = {"pareto": pareto_plot(run), "speedup": speedup_plot(run)}
    (folder / "plots").mkdir(exist_ok=True)
    links = {name: _picture(folder, name, content) for name, content in pictures.items()}
    page = folder / "report.md"
    write_text(page, _render(run, facts, links))
    return page


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
        best=best_lines(run),
        summary=summary_table(run),
        references=details.references_table(run),
        effects=details.effects_table(run),
        gates=details.gates_table(run),
        not_run=details.not_run_table(run),
        by_threads=[(n, details.threads_table(run, threads=n)) for n in run.thread_counts if n > 1],
        accuracy=details.accuracy_table(run),
        differences=details.differences_table(run),
        agreement=details.agreement_table(run),
        sizes=details.sizes_table(run),
        data=details.data_table(run),
        engines=details.engines_table(run),
        points=details.points_table(run),
        training=details.training_table(run),
        protocol=list(_protocol(run)),
        environment=_environment_table(facts),
        columns=COLUMNS,
        **links,
    )
    return text.rstrip() + "\n"


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
            f"{recipes} recipes on {len(run.targets)} targets: {ran} of {all_} variants ran. "
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
    found = (getattr(row, column) for row in run.rows)
    values = dict.fromkeys(str(value) for value in found if value not in (None, ""))
    return ", ".join(values) or "unknown"


def _protocol(run: Results) -> Iterator[str]:
    """How the figures came about, as far as the rows themselves tell."""
    timed = [row for row in run.rows if row.scenario in TIMED]
    yield from _accuracy_protocol(run)
    if not timed:
        yield "No speed was measured."
        return
    points = (point for threads in run.thread_counts for point in run.points(threads=threads))
    labels = _list(dict.fromkeys(point.label for point in points))
    yield (
        f"Points: {labels}, at {_list(run.thread_counts)} threads; timed region: "
        f"{_list(dict.fromkeys(row.region or 'not told' for row in timed))}."
    )
    yield from _paired_protocol([row for row in timed if row.ratio is not None])
    yield (
        "Latencies and rates are of this machine in these minutes; between runs only the paired "
        "speedups may be compared. A percentile with too few calls to prove it is n/a."
    )


def _accuracy_protocol(run: Results) -> Iterator[str]:
    rows = [row for row in run.rows if row.scenario == "accuracy" and row.metric == run.main_metric]
    counts = dict.fromkeys(f"{row.n:,}" for row in rows if row.n is not None)
    if rows:
        yield (
            f"Quality is of the exported model in its engine, on "
            f"{_list(counts) or 'an untold number of'} rows of the test split; intervals "
            f"({ACCURACY_LEVEL} %) are a bootstrap over users, and differences are paired: both "
            "sides are evaluated on the same resampled users."
        )
    for row in run.rows:
        if row.metric == "auc_seed_noise" and row.value is not None:
            yield (
                f"Noise floor of {row.baseline}: AUC has a standard deviation of {row.value:.5f} "
                f"over {row.n} seeds."
            )
    if any(is_reference(row) for row in run.rows):
        yield "The simple rankings were scored on the same rows, without an engine."


def _paired_protocol(paired: list[Row]) -> Iterator[str]:
    if not paired:
        yield "No paired speedup was measured."
        return
    counts = sorted({row.n for row in paired if row.n is not None})
    span = " to ".join(dict.fromkeys(f"{n:,}" for n in (*counts[:1], *counts[-1:])))
    yield (
        "Speedups are medians over pairs of blocks: baseline and variant took turns on the same "
        f"engine, inputs and threads; intervals ({TIME_LEVEL} %) are a bootstrap over pairs; "
        f"there were {span or 'an unknown number of'} pairs."
    )
    controls = [row.aa_ratio for row in paired if row.aa_ratio is not None]
    if not controls:
        yield "No A/A ratio was measured, so no speedup is proven."
        return
    outside = sum(not AA_BOUNDS[0] <= ratio <= AA_BOUNDS[1] for ratio in controls)
    yield (
        f"Control: a second copy of the baseline ran in every comparison; its ratio was "
        f"{min(controls):.3f} to {max(controls):.3f}, and {outside} of {len(controls)} lay outside "
        f"{AA_BOUNDS[0]} to {AA_BOUNDS[1]}, where a comparison counts as inconclusive."
    )


def _list(values: Any) -> str:
    return ", ".join(map(str, values))


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
    return _list(value) if isinstance(value, list) else str(value)
