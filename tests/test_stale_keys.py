"""What the keys of the cache hold besides a user's own files: the code and the packages of other
places, the machine where one was timed or tried, and what a user's model imports.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness import dependencies, measuring, native, registry, store, user_code, variants
from harness.artifact import Artifact
from harness.dependencies import depends_on
from harness.errors import DataError
from harness.measuring import Session, score
from harness.stages import teacher as teacher_file
from harness.stages.base import Context
from harness.stages.teacher import teacher_scores
from harness.store import Store
from harness.user_code import other_packages, user_source_hash
from harness.variants import stage_key

DEPENDS = {
    "prune_to_latency": {"timed_on"},
    "search_student": {"timed_on"},
    "flatten_candidates": {"timed_on"},
    "quantize_measured": {"timed_on", "instructions"},
    "quantize_tables": {"timed_on", "operators"},
    "native_operators": {"timed_on", "operators"},
    "scan_catalogue": {"operators"},
    "index_catalogue": {"faiss"},
    **{
        name: {"instructions"}
        for name in (
            *("quantize_dynamic", "quantize_static", "quantize_aware"),
            *("convert_fp16", "cast_weights"),
        )
    },
}
"""Of the other stages a result is the same on every machine."""


def keys(artifact: Artifact, data: Any) -> dict[str, str]:
    """The key of every stage's result, by its name."""
    trained: Any = SimpleNamespace(data=data, artifact=artifact)
    return {
        name: stage_key(artifact, SimpleNamespace(name=name, parameters={}), 1, trained)  # type: ignore[arg-type]
        for name in registry.names("stages")
    }


def another_kernel(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for file in native.SOURCES.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "kernels.cpp").write_bytes(b"// faster\n" + (folder / "kernels.cpp").read_bytes())
    monkeypatch.setattr(native, "SOURCES", folder)


def another_faiss(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    file, (name, _) = "item_index.py", dependencies._BY_FILE["item_index.py"]
    monkeypatch.setitem(dependencies._BY_FILE, file, (name, lambda: "999"))


def environment_with(**facts: Any) -> Callable[[pytest.MonkeyPatch, Path], None]:
    def change(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        present = dependencies.environment()
        monkeypatch.setattr(dependencies, "environment", lambda: {**present, **facts})

    return change


def test_what_every_stage_depends_on() -> None:
    for name in registry.names("stages"):
        found = depends_on(registry.entry("stages", name).source)
        assert set(found) == DEPENDS.get(name, set()), name


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("operators", another_kernel),
        ("faiss", another_faiss),
        ("timed_on", environment_with(key="another machine")),
        ("instructions", environment_with(flags=["amx_int8"])),
    ],
)
def test_exactly_the_stages_that_depend_on_it_run_again(
    tiny_artifact: Artifact,
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    change: Callable[[pytest.MonkeyPatch, Path], None],
) -> None:
    monkeypatch.setattr(variants, "source_hash", str)  # of the code is told elsewhere
    before = keys(tiny_artifact, tiny)
    folder = tmp_path / "other"
    folder.mkdir()
    change(monkeypatch, folder)
    after = keys(tiny_artifact, tiny)
    expected = {name for name, depends in DEPENDS.items() if what in depends}
    assert {name for name in before if before[name] != after[name]} == expected


def test_onnxruntime_for_gpus_is_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(store, "version", version)
    assert store.package_versions.__wrapped__()["onnxruntime"] == "onnxruntime-gpu 1"


@pytest.fixture
def scored(tiny_artifact: Artifact, tiny: Any, tmp_path: Path) -> Callable[[], int]:
    """How often the variant has been scored, after asking for its scores once more."""
    calls: list[str] = []

    def answer(arm: Any, request: Any, folder: Path, progress: Any) -> None:
        calls.append(arm.name)
        np.save(folder / "answer.npy", np.zeros(3, np.float32))
        facts = dict.fromkeys(("engine", "version", "device", "precision", "provider"), "x")
        (folder / "facts.json").write_text(json.dumps({**facts, "threads": 1}))

    spec = SimpleNamespace(name="b", seed=1)
    trained: Any = SimpleNamespace(data=tiny, spec=spec, data_folder=tmp_path)
    target = SimpleNamespace(engine="torch-cpu")
    recipe = SimpleNamespace(name="r", seed=1)
    variant: Any = SimpleNamespace(
        name="v", artifact=tiny_artifact, source=tiny_artifact, target=target, recipe=recipe
    )
    scorer: Any = SimpleNamespace(score=answer)

    def ask() -> int:
        cache = Store(tmp_path / "scores")
        session = Session(cache, lambda name: lambda label, share: None, 1, scorer)
        score(variant, trained, session)
        return len(calls)

    return ask


@pytest.mark.parametrize("changed", ["auc.py", "torch_cpu.py", "scoring_worker.py"])
def test_scores_are_found_until_their_code_changes(
    scored: Callable[[], int], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Fields are judged by the main metric where scores are made: its code counts."""
    assert [scored(), scored()] == [1, 1]
    kept = measuring.source_hash
    monkeypatch.setattr(
        measuring, "source_hash", lambda path: "new" if path.name == changed else kept(path)
    )
    assert [scored(), scored()] == [2, 2]


def test_a_metric_that_is_no_main_one_leaves_the_scores(
    scored: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scored() == 1
    kept = measuring.source_hash
    monkeypatch.setattr(
        measuring, "source_hash", lambda path: "new" if path.name == "ece.py" else kept(path)
    )
    assert scored() == 1


def test_a_teacher_scores_anew_with_other_code(
    make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context()
    asked: list[bool] = []
    original = teacher_file._score
    monkeypatch.setattr(
        teacher_file, "_score", lambda *args: (asked.append(True), original(*args))[1]
    )
    for expected in (1, 1):
        teacher_scores(context.baseline, context)
        assert len(asked) == expected
    monkeypatch.setattr(teacher_file, "source_hash", lambda path: "other")
    again = replace(context, store=Store(context.store.root))
    teacher_scores(context.baseline, again)
    assert len(asked) == 2


@pytest.mark.parametrize("form", ["import helper", "from helper import SCALE", "import helper.x"])
@pytest.mark.parametrize("package", [False, True])
def test_code_beside_the_model_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, package: bool
) -> None:
    """It wouldn't go into the artifact, and a change of it wouldn't be seen."""
    place = tmp_path / "helper" / "__init__.py" if package else tmp_path / "helper.py"
    place.parent.mkdir(exist_ok=True)
    place.write_text("SCALE = 1.0\n")
    (tmp_path / "model.py").write_text(f'"""Mine."""\n\ndef build():\n    {form}\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"model\.py:4: imports 'helper', which is .*helper"):
        other_packages(tmp_path / "model.py")


def test_a_folder_of_modules_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.py").write_text("SCALE = 1.0\n")
    (tmp_path / "model.py").write_text("from parts.one import SCALE\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"model\.py:1: imports 'parts', which is .*parts"):
        other_packages(tmp_path / "model.py")


@pytest.mark.parametrize(
    "source",
    [
        "import math, torch, harness.schema\nfrom torch import nn\nimport numpy as np\n",
        "try:\n    import not_there_at_all\nexcept ImportError:\n    pass\n",
        "from . import x\n",  # its import says that there is no package
    ],
)
def test_what_needs_no_version_of_its_own(tmp_path: Path, source: str) -> None:
    (tmp_path / "model.py").write_text(source)
    assert other_packages(tmp_path / "model.py") == {}


def test_versions_of_other_packages_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text("import scipy.sparse\nfrom sklearn import metrics\n")
    found = other_packages(tmp_path / "model.py")
    assert set(found) == {"scipy", "scikit-learn"}
    monkeypatch.setattr(user_code, "version", lambda name: "999")
    assert other_packages(tmp_path / "model.py") == dict.fromkeys(found, "999")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"x = 1\ndef broken(:\n", r"model\.py:2: not Python: invalid syntax"),
        (b"x = '\xe9'\n", r"model\.py.*: not Python: .*utf-8"),
        (b"x = 1\0\n", r"model\.py: not Python: source code string cannot contain null bytes"),
        (b"# -*- coding: no-such -*-\n", r"model\.py.*: not Python: .*no-such"),
        (b"if 1:\nx = 1\n", r"model\.py:2: not Python: expected an indented block"),
    ],
)
def test_a_model_that_is_no_python_is_one_sentence(
    tmp_path: Path, source: bytes, told: str
) -> None:
    (tmp_path / "model.py").write_bytes(source)
    with pytest.raises(DataError, match=told):
        user_source_hash(tmp_path / "model.py")


def test_the_encoding_that_a_model_names_is_used(tmp_path: Path) -> None:
    text = "# -*- coding: latin-1 -*-\nx = 'é'\n"
    (tmp_path / "a.py").write_bytes(text.encode("latin-1"))
    (tmp_path / "b.py").write_text(text.replace("latin-1", "utf-8"))
    (tmp_path / "c.py").write_text(text.replace("latin-1", "utf-8"), encoding="utf-8-sig")
    hashes = {user_source_hash(tmp_path / f"{name}.py") for name in "abc"}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "form",
    [
        "from harness.objectives import predict\n",
        "from harness import objectives\n",
        "import harness.objectives\n",
        "def later():\n    import harness.objectives as o\n",
    ],
)
def test_files_of_the_project_that_a_model_imports_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Whatever the form: a copy of the project with another ``objectives`` gives another hash."""
    root = Path(store.__file__).parent
    hashes = []
    for extra in ("", "EXTRA = 1\n"):
        copy = tmp_path / f"project{len(hashes)}"
        copy.mkdir()
        text = (root / "objectives.py").read_text() + extra
        (copy / "objectives.py").write_text(text)
        (copy / "model.py").write_text(form)
        monkeypatch.setattr(store, "__file__", str(copy / "store.py"))
        hashes.append(user_source_hash(copy / "model.py"))
    assert hashes[0] != hashes[1]
