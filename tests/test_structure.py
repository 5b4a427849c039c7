"""The project's shape: who may import whom, what is small, who prints."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "harness"

BASE = {
    "artifact",
    "bounded",
    "catalog",
    "checkpoints",
    "clipped",
    "comparable",
    "compressed",
    "cuda",
    "dependencies",
    "document",
    "environment",
    "errors",
    "halved",
    "histories",
    "interrupts",
    "item_index",
    "item_lists",
    "loading",
    "logs",
    "machine_faults",
    "modules",
    "native",
    "outcomes",
    "params",
    "plans",
    "process",
    "profile",
    "progress",
    "recipe",
    "registry",
    "regular",
    "results",
    "process",
    "run_folder",
    "schema",
    "store",
    "strict_json",
    "tables",
    "tasks",
    "user_code",
    "visible",
}
ENGINE_BASE = {"engines.base", "engines.probing"}
METRIC_BASE = {"metrics.base", "metrics.ranking"}
GATES = {"gates"}
MAKES = ENGINE_BASE | {"suites", "variants", "baseline", "making"}
"""What making and timing artifacts takes; the other gates only read."""

ALLOWED = {
    "base": BASE,
    "datasets": BASE | {"datasets"},
    "models": BASE | {"models"},
    "metrics": BASE | {"metrics"},
    "engines": BASE | {"engines"},
    "objectives": BASE,
    "next_items": BASE | {"objectives"},
    "training": BASE | {"datasets", "models", "objectives", "next_items"},
    "baseline": BASE | {"datasets", "models", "training", "objectives"},
    "stages": BASE | {"training", "objectives", "next_items", "stages"},
    "suites": BASE | ENGINE_BASE | METRIC_BASE | {"suites"},
    "gates": BASE | {"gates"},
    **{f"gates.{name}": BASE | GATES | {"suites"} for name in ("calibration", "interleaved")},
    **{f"gates.{name}": BASE | GATES | MAKES for name in ("shipping", "calibrating")},
    "report": BASE | {"report"},
    "variants": BASE | {"stages", "baseline", "training", "objectives"},
    "making": BASE | {"stages", "suites"},
    "making_worker": BASE | {"stages", "suites", "variants", "objectives"},
    "measuring": BASE | ENGINE_BASE | METRIC_BASE | {"suites", "variants", "baseline"},
    "timing": BASE | {"suites", "variants", "baseline", "measuring"},
    "tensorrt_child": BASE,
    "tensorrt_check": BASE | {"stages", "variants", "baseline", "measuring"},
    "accounts": BASE | {"baseline", "training", "objectives", "gates", "variants", "measuring"},
    "lock": BASE | ENGINE_BASE | {"suites", "variants", "baseline", "measuring"},
    "listing": BASE | ENGINE_BASE,
    "reproduce": BASE | {"suites", "baseline", "measuring", "lock"},
    "peers": BASE
    | METRIC_BASE
    | {"peers", "engines", "suites", "stages", "variants", "baseline", "report", "making"},
    "run": BASE
    | ENGINE_BASE
    | {
        "gates",
        "report",
        "suites",
        "variants",
        "measuring",
        "accounts",
        "tensorrt_check",
        "timing",
        "baseline",
        "lock",
        "making",
    },
    "cli": BASE | ENGINE_BASE | {"gates", "listing", "report", "run", "lock", "reproduce", "peers"},
    "__main__": {"cli"},
    "__init__": set(),
}

LIGHT = (BASE - {"bounded", "compressed"}) | {"cli", "report"}
"""These two have torch; other base files import them where they build a module."""
LIGHT_GATES = {"rules", "against", "builds", "verdicts"}
HEAVY = {"torch", "onnxruntime", "openvino", "polars", "pandas", "sklearn", "matplotlib", "onnx"}


def imports(tree: ast.Module, *, top_only: bool = False) -> list[str]:
    """Modules that a file imports; type-checking imports don't count."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_only else list(ast.walk(tree))
    found: list[str] = []
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "harness":
            found += [f"harness.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module in ("harness.suites", "harness.report", "harness.gates")
                else [node.module]
            )
    return found


def faults(path: Path, text: str) -> list[str]:
    """Imports of one file that point the wrong way."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    group = "base" if parts[0] in BASE else parts[0]
    group = ".".join(parts) if ".".join(parts) in ALLOWED else group
    if group not in ALLOWED:
        return [f"{path.name}: no rule for {group!r}; say in ALLOWED what it may import"]
    wrong = []
    for name in imports(ast.parse(text)):
        if name.split(".")[0] != "harness" or name == "harness":
            continue
        inner = name.removeprefix("harness.")
        allowed = ALLOWED[group]
        if inner.split(".")[0] not in allowed and inner not in allowed and inner != "__version__":
            wrong.append(f"{'/'.join(parts)} imports {name}")
    return wrong


FILES = sorted(ROOT.rglob("*.py"))


def is_light(path: Path) -> bool:
    """Whether a file must load without torch and its like."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] in LIGHT or (parts[0] == "gates" and parts[1] in LIGHT_GATES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    assert faults(path, path.read_text()) == []


def test_a_planted_import_is_found() -> None:
    planted = "from harness.suites import accuracy\n"
    assert faults(ROOT / "models" / "dlrm.py", planted) == [
        "models/dlrm imports harness.suites.accuracy"
    ]
    assert faults(ROOT / "report" / "page.py", "import harness.training\n") == [
        "report/page imports harness.training"
    ]
    assert faults(ROOT / "new_folder" / "x.py", "") != []


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if is_light(p)],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_light_files_load_nothing_heavy_at_import(path: Path) -> None:
    if path.parent.name == "report":
        forbidden = {"torch", "onnxruntime", "openvino", "onnx"}
    else:
        forbidden = HEAVY
    top = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), top_only=True)}
    assert not top & forbidden


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_do_one_job_and_say_it(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "the first line says the file's job"
    assert text.count("\n") <= 400, "split the file: it does more than one job"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    if path.name != "cli.py":
        assert not calls & {"print", "sys.exit", "exit"}
