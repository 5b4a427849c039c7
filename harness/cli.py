"""The command line: the only place that prints, and the only one that chooses an exit code.

Exit codes: 0 done; 1 a gate failed or a required target is missing; 2 bad input; 3 a gate is
inconclusive; 4 nothing was measured; 130 interrupted.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import __version__
from harness.errors import HarnessError
from harness.interrupts import heed_no_more, heed_sigterm
from harness.logs import begin_logging
from harness.machine_faults import fault_line
from harness.progress import open_console, take_any_text, tasks
from harness.visible import visible

if TYPE_CHECKING:
    from harness.gates.rules import GateResult
    from harness.recipe import Recipe

app = typer.Typer(
    help="Which compression of a recommender to ship on which runtime, measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
prune_app = typer.Typer(help="What the cache holds, and removing what is old.")
app.add_typer(prune_app, name="cache", no_args_is_help=True)

Recipes = Annotated[list[Path], typer.Argument(help="recipe files", metavar="RECIPE...")]
Folder = Annotated[Path, typer.Argument(help="folder of a run", metavar="DIR")]


def _version(value: bool) -> None:
    if value:
        _say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    return


@app.command()
def run(
    recipes: Recipes,
    out: Annotated[Path, typer.Option(help="where rows and report go")] = Path("out"),
    profile: Annotated[str, typer.Option(help="ci, default, publish, or a YAML file")] = "default",
    targets: Annotated[str, typer.Option(help="only these, separated by commas")] = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="measure again; nothing is retrained")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan only")] = False,
) -> None:
    """Make every variant of the recipes, measure all, write rows and report.

    All recipes are checked first: with one bad file nothing is run. Exit code 1 when a gate fails
    or a required target can't run, 2 on bad input.
    """
    from harness.loading import load_recipes
    from harness.profile import find_profile

    wanted = find_profile(profile)
    chosen = _targets(targets)
    checked = load_recipes(recipes)
    if dry_run:
        _print_plan(checked, chosen)
        return
    from harness.run import Options
    from harness.run import run as run_recipes
    from harness.store import default_store

    options = Options(out, wanted, chosen, fresh)
    with _interruptible(), _tasks() as task:
        finished = run_recipes(checked, options, default_store(), task)
    _print_summary(list(finished.rows))
    _print_gates(list(finished.gates))
    for line in finished.missing:
        _say(f"required but not run: {line}")
    _say(f"report: {finished.report}")
    raise typer.Exit(finished.exit_code)


def _targets(text: str) -> tuple[str, ...]:
    from harness import registry

    chosen = tuple(name.strip() for name in text.split(",") if name.strip())
    known = registry.names("engines")
    for name in chosen:
        if name not in known:
            raise HarnessError(f"--targets {name!r}: no such engine{registry.suggest(name, known)}")
    return chosen


def _print_plan(recipes: "tuple[Recipe, ...]", chosen: tuple[str, ...]) -> None:
    from harness.recipe import plain

    for recipe in recipes:
        _say(f"{recipe.name}  (baseline {recipe.baseline.name})")
        for target in recipe.targets:
            if chosen and target.engine not in chosen:
                continue
            steps = [
                stage.name + (f" {plain(stage.parameters)}" if stage.parameters else "")
                for stage in recipe.chain(target.engine)
            ]
            _say(f"  {target.engine}: {' -> '.join(['baseline', *steps])}")


@app.command()
def check(recipes: Recipes) -> None:
    """Check recipes and their baselines without running anything; prints every mistake."""
    from harness.loading import load_recipes

    checked = load_recipes(recipes)
    _say(f"{len(checked)} recipes are right" if len(checked) > 1 else "1 recipe is right")


@app.command("list")
def list_things(
    kind: Annotated[str, typer.Argument(help="models, datasets, stages, engines or metrics")] = "",
) -> None:
    """Names, one line each, with parameters, and why an engine can't run here."""
    from harness import registry
    from harness.catalog import CATALOG
    from harness.listing import catalog_lines

    if kind and kind not in CATALOG:
        raise HarnessError(f"list {kind!r}: no such kind{registry.suggest(kind, CATALOG)}")
    for name in [kind] if kind else CATALOG:
        _say(f"{name}:")
        for line in catalog_lines(name):
            _say(f"  {line}")


@app.command()
def train(
    baseline: Annotated[Path, typer.Argument(help="a baseline's YAML")],
    seeds: Annotated[int, typer.Option(min=1, help="trainings for the noise floor")] = 3,
) -> None:
    """Train the baseline (or find it trained) and write its lock file: hash, metrics, noise."""
    from harness.loading import load_baseline
    from harness.store import default_store

    spec = load_baseline(baseline)
    from harness.lock import write_lock

    with _interruptible(), _tasks() as task:
        lock = write_lock(spec, default_store(), seeds=seeds, task=task)
    for name, count in lock.rows.items():
        _say(f"rows {name}: {count:,}")
    for name, value in lock.content["metrics"].items():
        _say(f"{name}: {'undefined on this test split' if value is None else f'{value:.4f}'}")
    _say(f"lock: {lock.path}")


@app.command()
def reproduce(
    figures: Annotated[Path, typer.Argument(help="a YAML of published figures")],
    out: Annotated[Path, typer.Option(help="where the table goes")],
) -> None:
    """Train and score what others have published; exit code 1 when a figure is out of its band."""
    from harness.reproduce import lines, write
    from harness.reproduce import reproduce as reproduce_figures
    from harness.store import default_store

    with _interruptible(), _tasks() as task:
        found = reproduce_figures(figures, default_store(), task)
    _say("\n".join(lines(found)))
    write(found, out, say=_say)
    raise typer.Exit(0 if all(one.inside for one in found) else 1)


@app.command()
def peers(
    workloads: Annotated[Path, typer.Argument(help="a YAML of what is set beside what")],
    out: Annotated[Path, typer.Option(help="where tables and figures go")],
    only: Annotated[str, typer.Option(help="this workload alone")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="turns that each contestant has")] = 15,
    readme: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="whose summary is renewed")
    ] = None,
) -> None:
    """Our variants beside the toolkits an engineer would otherwise use, in turns in one run."""
    from harness.peers import run as comparison
    from harness.store import default_store

    options = comparison.Options(out, only, rounds, readme=readme)
    with _interruptible(), _tasks() as task:
        found = comparison.run(workloads, options, default_store(), task)
    for line in found.lines:
        if line.status != "ok":
            _say(f"{line.status}: {line.workload} {line.call}: {line.contestant}: {line.reason}")
    for lead in found.leads:
        value = "nothing to compare" if lead.lead is None else f"{lead.lead.value:.2f}x"
        _say(f"{lead.workload} {lead.call}: ours / best peer {value}, target {lead.outcome}")
    _say(f"tables: {found.page}")


@app.command()
def report(folder: Folder) -> None:
    """Make the report and plots of a run again from its rows."""
    from harness.report.page import write_report

    _say(f"report: {write_report(folder)}")


@app.command()
def compare(
    first: Folder,
    second: Folder,
    accuracy_only: Annotated[bool, typer.Option("--accuracy-only", help="leave times out")] = False,
) -> None:
    """Two runs side by side; refuses to compare times of different machines."""
    from harness.report.tables import compare as compare_runs

    _say(compare_runs(first, second, accuracy_only=accuracy_only))


@app.command()
def build(
    recipes: Recipes,
    out: Annotated[Path, typer.Option(help="where the artifacts go")],
    targets: Annotated[str, typer.Option(help="only these, separated by commas")] = "",
) -> None:
    """Make every variant and copy it to a folder of its own, ready to ship, with gate inputs.

    Exit code 1 when a variant fails or nothing could be made, 2 on bad input.
    """
    from harness.loading import load_recipes

    chosen = _targets(targets)
    checked = load_recipes(recipes)
    from harness.gates.shipping import build as build_recipes
    from harness.store import default_store

    with _interruptible(), _tasks() as task:
        made = build_recipes(checked, out, default_store(), task, targets=chosen)
    for built in made.artifacts.values():
        _say(f"{built.name}: {built.bytes:,} bytes: {made.path(built.name)}")
    for name, reason in made.skipped.items():
        _say(f"skipped: {name}: {reason}")
    for name, reason in made.failed.items():
        _say(f"failed: {name}: {reason}")
    _say(f"{len(made.artifacts)} artifacts in {out}")
    raise typer.Exit(1 if made.failed or not made.artifacts else 0)


@app.command()
def gate(
    folder: Annotated[
        Path | None, typer.Argument(help="folder of a run or a build", metavar="[DIR]")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="an earlier run of this machine, or the base's build")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="judge and print, but end with exit code 0")
    ] = False,
    calibrate: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="count the gate's errors in N sessions")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where a calibration goes")] = None,
) -> None:
    """Check a finished run against its recipes' gates or another run, or two builds in turns.

    Exit code 0 passed, 1 failed, 3 inconclusive, 4 nothing measured.
    """
    from harness.gates import verdicts

    if calibrate and (folder or against or shadow):
        raise HarnessError("gate --calibrate N takes no folder: it makes its own artifact")
    if out is not None and not calibrate:
        raise HarnessError(f"gate --out {out}: only --calibrate N writes files; leave it out")
    with _interruptible(), _tasks() as task:
        if calibrate:
            from harness.store import default_store

            lines, code = verdicts.calibrate(calibrate, out, default_store(), task, say=_say)
        elif folder is not None:
            lines, code = verdicts.gate(folder, against, task, shadow=shadow)
        else:
            raise HarnessError("gate: give the folder of a run or a build, or --calibrate N")
    _say("\n".join(lines))
    raise typer.Exit(code)


@app.command()
def schema() -> None:
    """The JSON schema of recipes, for editors."""
    import json

    from harness.loading import recipe_json_schema

    _say(json.dumps(recipe_json_schema(), indent=1))


@prune_app.command("list")
def cache_list() -> None:
    """Entries of the cache, largest first."""
    from datetime import datetime

    from harness.store import default_store

    store = default_store()
    entries = store.entries()
    for path, size, made in entries:
        when = datetime.fromtimestamp(made).isoformat(timespec="minutes")
        _say(f"{size / 2**20:10.1f} MiB  {when}  {path.relative_to(store.root)}")
    _say(f"{sum(size for _, size, _ in entries) / 2**20:10.1f} MiB in {store.root}")


@prune_app.command("prune")
def cache_prune(
    days: Annotated[float, typer.Option(min=0, help="remove what is older")] = 30.0,
) -> None:
    """Remove entries of the cache that are older than so many days."""
    from harness.store import default_store

    removed = default_store().prune(days=days)
    _say(f"removed {len(removed)} entries, {sum(size for _, size in removed) / 2**20:.1f} MiB")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say that an interrupt lost nothing, and end with the shell's own code for it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        so_far = f"; rows so far: {stop.args[0]}" if stop.args else ""
        keeps = "what was finished is kept, run again to go on"
        _say(f"interrupted{so_far}; {keeps}", error=True)
        raise typer.Exit(130) from None


def _say(text: str, *, error: bool = False) -> None:
    """Print text in which nothing is hidden, whoever wrote the names in it."""
    try:
        print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)
    except OSError as fault:  # which doesn't say whose
        raise OSError(fault.errno, fault.strerror, "standard output") from fault


def _tasks() -> Any:
    return tasks(_say)


def _print_summary(rows: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from harness.report.tables import summary_for_terminal

    console = open_console()
    for headers, lines in summary_for_terminal(rows):
        table = Table(*headers, box=SIMPLE_HEAD)
        for line in lines:
            table.add_row(*map(visible, line))
        console.print(table)


def _print_gates(results: "list[GateResult]") -> None:
    for result in results:
        _say(f"gate {result.label}: {result.sentence}")


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr (``--debug``: traceback)."""
    debug = "--debug" in sys.argv
    # before torch is imported: threads that spin while waiting starve each other when it's busy
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    begin_logging(debug=debug)
    take_any_text(sys.stdout, sys.stderr)
    try:
        heed_sigterm()
        app(args=[word for word in sys.argv[1:] if word != "--debug"], prog_name="harness")
    except KeyboardInterrupt:  # there is nothing yet that could be lost
        sys.exit(130)
    except HarnessError as error:
        if debug:
            raise
        _say(f"error: {error}" if "\n" not in str(error) else str(error), error=True)
        sys.exit(error.exit_code)
    except (OSError, MemoryError, RuntimeError) as error:
        if debug or (line := fault_line(error)) is None:
            raise
        _say(f"error: {line}", error=True)
        sys.exit(HarnessError.exit_code)
    finally:
        heed_no_more()
