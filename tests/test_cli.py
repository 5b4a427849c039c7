"""The command line: what it prints, its exit codes, one line for a user's mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def harness(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_check_accepts_the_projects_own_recipes() -> None:
    done = harness("check", *RECIPES)
    assert (done.returncode, done.stdout) == (0, f"{len(RECIPES)} recipes are right\n")
    assert harness("check", RECIPES[0]).stdout == "1 recipe is right\n"


def test_check_prints_all_mistakes_and_ends_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    text = (ROOT / "recipes" / "journey-dlrm-prune50.yaml").read_text()
    text = text.replace("ratio: 0.5", "ratoi: 0.5").replace("torch-cpu", "torch-gpu")
    bad.write_text(text.replace("metric: auc", "metric: acu"))
    done = harness("check", bad, *RECIPES)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert any(f"{bad}:7: stages[0].prune_channels.ratoi: unknown" in line for line in lines)
    assert any(f"{bad}:9: targets[2]: unknown target 'torch-gpu'" in line for line in lines)
    assert any("unknown metric 'acu'; did you mean 'auc'?" in line for line in lines)
    assert "Traceback" not in done.stderr


def test_list_names_everything_and_why_an_engine_cant_run() -> None:
    from harness.catalog import CATALOG

    done = harness("list")
    assert done.returncode == 0
    for kind, things in CATALOG.items():
        assert f"{kind}:" in done.stdout
        for name in things:
            assert f"  {name}: " in done.stdout
    for engine in ("ort-cpu", "torch-cpu"):
        assert "can run here" in done.stdout.split(f"  {engine}: ")[1]
    assert "licence" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "engine"), "list 'engine': no such kind; did you mean 'engines'?"),
        (
            ("run", RECIPES[0], "--profile", "fast"),
            "--profile 'fast': no such profile, and not a YAML file; expected one of: ci, default",
        ),
        (("run", RECIPES[0], "--targets", "ort"), "--targets 'ort': no such engine"),
        (("check", "absent.yaml"), "can't be read: No such file or directory"),
        (("report", "absent"), "no rows here"),
        (("gate", "absent"), "no rows here"),
        (("compare", "absent", "absent"), "no rows here"),
    ],
)
def test_a_mistake_is_one_line_and_2(arguments: tuple, told: str) -> None:
    done = harness(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_dry_run_prints_the_chain_and_makes_nothing(tmp_path: Path) -> None:
    done = harness("run", *RECIPES, "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "tensorrt: baseline -> export_onnx" in done.stdout
    assert "-> convert_fp16" in done.stdout
    assert not (tmp_path / "out").exists()


def test_recipes_may_be_named_from_anywhere(tmp_path: Path) -> None:
    assert harness("check", *RECIPES, cwd=tmp_path).returncode == 0


def test_schema_is_json_for_editors() -> None:
    import json

    schema = json.loads(harness("schema").stdout)
    assert "stages" in schema["properties"]
    assert "schema_version" in schema["required"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_of_the_very_end_changes_nothing(name: str) -> None:
    """Python ends what it has begun for a while after the last line was written."""
    program = (
        "import atexit, os, signal, sys; from harness.cli import main; "
        f"atexit.register(lambda: os.kill(os.getpid(), signal.{name})); "
        "sys.argv = ['harness', 'list', 'metrics']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "auc" in done.stdout
    assert "Traceback" not in done.stderr
