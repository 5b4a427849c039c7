"""Recipes and baselines: YAML files checked whole, with every mistake of every file at once.

Nothing here runs, imports or probes anything: parameters are checked against the source of the
catalog entry they belong to.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from harness import registry
from harness.document import Document, Place, read_document
from harness.errors import Problem, RecipeError
from harness.params import Count, Flag, NonNegative, Positive, Real, Share, Text, Whole

MEASURES = {
    "latency_p50": "sweep",
    "latency_p90": "sweep",
    "latency_p99": "sweep",
    "rows_per_second": "sweep",
    "peak_memory": "memory",
    "bytes": "size",
    "parameters": "size",
    "macs": "size",
}
"""What a gate can name besides accuracy metrics, and the scenario it is measured in."""

EXPECTED = ("parameters", "embedding_parameters", "macs", "bytes")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_DEVICE_NAMES = {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in range(10)}


def check_name(name: str) -> str:
    """``name`` when it is safe as a file name on every system; raises ``ValueError``."""
    if not _NAME.fullmatch(name) or name.lower() in _DEVICE_NAMES:
        raise ValueError(
            f"{name[:90]!r} can't be a name; use 1 to 80 letters, digits, '-' and '_', "
            "starting with a letter or digit"
        )
    return name


Name = Annotated[Text, AfterValidator(check_name)]
File = TypeVar("File", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingSpec(_Strict):
    """How the baseline is trained; see ``harness.training.Training`` for the meaning."""

    epochs: NonNegative = 1.0
    batch_size: Count = 4096
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    warmup: Share = 0.05
    evaluations: Count = 4
    patience: Count = 3
    validation_rows: Count = 50_000


class GateSpec(_Strict):
    """One gate: a metric, where it is measured, and exactly one bound."""

    metric: Text
    target: Text | None = None
    batch: Count | None = None
    candidates: Count | None = None
    threads: Count = 1
    max_drop: NonNegative | None = None
    max_rise: NonNegative | None = None
    min_speedup: Positive | None = None
    max_ratio: Positive | None = None
    minimum: Real | None = None
    maximum: Real | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "GateSpec":
        given = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a gate has exactly one of {', '.join(BOUNDS)}; got {given or 'none'}")
        return self

    @property
    def bound(self) -> tuple[str, float]:
        """The bound's name and value."""
        return next((n, float(v)) for n in BOUNDS if (v := getattr(self, n)) is not None)


BOUNDS = ("max_drop", "max_rise", "min_speedup", "max_ratio", "minimum", "maximum")


class Expectation(_Strict):
    """How a size may compare with the baseline's, as a ratio variant / baseline."""

    min_ratio: NonNegative | None = None
    max_ratio: NonNegative | None = None


def _single(value: Any) -> Any:
    """``name`` or ``{name: {...}}`` as the pair (name, parameters)."""
    if isinstance(value, str):
        return {"name": value, "parameters": {}}
    if isinstance(value, dict) and len(value) == 1:
        name, parameters = next(iter(value.items()))
        if parameters is None or isinstance(parameters, dict):
            return {"name": name, "parameters": parameters or {}}
    raise ValueError(f"expected a name, or one name with its parameters, got {value!r}")


class _Call(_Strict):
    name: Text
    parameters: dict[str, Any]


Call = Annotated[_Call, BeforeValidator(_single)]


class _BaselineFile(_Strict):
    schema_version: Literal[1]
    name: Name
    description: Text = ""
    dataset: Call
    model: Call
    training: TrainingSpec = TrainingSpec()
    weights: Text | None = None
    seed: Whole = 7


class _RecipeFile(_Strict):
    schema_version: Literal[1]
    name: Name
    description: Text = ""
    baseline: Text
    stages: tuple[Call, ...] = ()
    targets: Annotated[tuple[Call, ...], AfterValidator(lambda v: _not_empty(v))]
    expect: dict[Text, Expectation] = {}
    gates: tuple[GateSpec, ...] = ()
    seed: Whole = 7


def _not_empty(values: tuple[_Call, ...]) -> tuple[_Call, ...]:
    if not values:
        raise ValueError("name at least one target, such as ort-cpu")
    return values


@dataclass(frozen=True)
class StageSpec:
    """One stage of a recipe with all of its parameters."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class TargetSpec:
    """An engine to run on; a ``require``d one that can't run here fails the run."""

    engine: str
    require: bool = False


@dataclass(frozen=True)
class Baseline:
    """A baseline's specification; relative paths in it start at ``folder``."""

    name: str
    file: Path
    description: str
    dataset: StageSpec
    model: StageSpec
    training: TrainingSpec
    weights: str | None
    seed: int

    @property
    def folder(self) -> Path:
        """Where the file stands."""
        return self.file.parent


@dataclass(frozen=True)
class Recipe:
    """A checked recipe with all defaults filled in."""

    name: str
    file: Path
    description: str
    baseline: Baseline
    stages: tuple[StageSpec, ...]
    targets: tuple[TargetSpec, ...]
    expect: Mapping[str, Expectation]
    gates: tuple[GateSpec, ...]
    seed: int

    def chain(self, engine: str) -> tuple[StageSpec, ...]:
        """The stages up to a format that ``engine`` takes: the recipe's own, and the export or
        build that the target needs."""
        return chain(self.stages, engine)


class ChainError(ValueError):
    """Stages, or a target, in an order that can't work; ``at`` is the stage's index."""

    def __init__(self, message: str, at: int | None) -> None:
        self.at = at
        super().__init__(message)


_BRIDGES = {
    ("torch", "onnx"): ("export_onnx",),
    ("onnx", "tensorrt"): ("build_tensorrt",),
    ("torch", "tensorrt"): ("export_onnx", "build_tensorrt"),
}


def chain(stages: Sequence[StageSpec], engine: str | None) -> tuple[StageSpec, ...]:
    """Stages with the missing exports and builds put in; ends in the format that ``engine`` takes
    (None: as the stages end). Raises ``ChainError``."""
    full: list[StageSpec] = []
    current = "torch"
    for at, stage in enumerate(stages):
        marks = registry.entry("stages", stage.name).marks
        full += _bridge(current, marks["accepts"], f"stage {stage.name}", at)
        full.append(stage)
        current = marks["produces"]
    if engine is not None:
        accepts = registry.entry("engines", engine).marks["accepts"]
        full += _bridge(current, accepts, f"target {engine}", None)
    return tuple(full)


def _bridge(current: str, wanted: str, who: str, at: int | None) -> list[StageSpec]:
    if current == wanted:
        return []
    if (current, wanted) not in _BRIDGES:
        raise ChainError(f"{who} takes a {wanted} model, but gets a {current} one", at)
    return [StageSpec(name, registry.bind("stages", name, {})) for name in _BRIDGES[current, wanted]]


def load_recipes(paths: Iterable[Path]) -> tuple[Recipe, ...]:
    """All recipes, checked. Raises ``RecipeError`` with every problem of every file."""
    problems: list[Problem] = []
    recipes: list[Recipe] = []
    baselines: dict[Path, Baseline | None] = {}
    for path in paths:
        recipe = _load_recipe(Path(path), problems, baselines)
        if recipe:
            recipes.append(recipe)
    problems += _repeated(recipes)
    if problems:
        raise RecipeError(problems)
    return tuple(recipes)


def load_baseline(path: Path) -> Baseline:
    """A baseline, checked. Raises ``RecipeError`` with every problem."""
    problems: list[Problem] = []
    baseline = _load_baseline(path, problems)
    if problems or baseline is None:
        raise RecipeError(problems)
    return baseline


def _repeated(recipes: Sequence[Recipe]) -> list[Problem]:
    problems, first = [], {}
    for recipe in recipes:
        other = first.setdefault(recipe.name.lower(), recipe)
        if other is not recipe:
            message = f"{recipe.name!r} is also the name of {other.file}; names are compared without case"
            problems.append(Problem(str(recipe.file), None, "name", message))
    return problems


def _load_recipe(
    path: Path, problems: list[Problem], baselines: dict[Path, Baseline | None]
) -> Recipe | None:
    document = read_document(path)
    file = _validate(document, _RecipeFile)
    found = None
    if isinstance(document.data, dict) and isinstance(document.data.get("baseline"), str):
        found = _find_baseline(document, path.parent, document.data["baseline"])
        if found and found not in baselines:
            baselines[found] = _load_baseline(found, problems)
    stages = _calls(document, "stages", "stages")
    targets = _targets(document)
    if not document.problems:
        _check_chain(document, stages, targets)
    if file:
        _check_bounds(document, file, targets)
    baseline = baselines.get(found) if found else None
    if baseline and not document.problems:
        _check_students(document, stages, baseline)
    problems += document.problems
    if document.problems or file is None or baseline is None:
        return None
    return Recipe(
        file.name, path, file.description, baseline, stages, targets, file.expect, file.gates, file.seed
    )


def _find_baseline(document: Document, folder: Path, name: str) -> Path | None:
    places = (
        [folder / name]
        if name.endswith((".yaml", ".yml"))
        else [folder.parent / "baselines" / f"{name}.yaml", folder / "baselines" / f"{name}.yaml"]
    )
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = " or ".join(str(place) for place in places)
        document.complain(("baseline",), f"no baseline {name!r}: looked for {looked}")
    return found


def _load_baseline(path: Path, problems: list[Problem]) -> Baseline | None:
    document = read_document(path)
    file = _validate(document, _BaselineFile)
    dataset = _call(document, ("dataset",), "datasets")
    model = _call(document, ("model",), "models")
    problems += document.problems
    if document.problems or file is None or dataset is None or model is None:
        return None
    return Baseline(
        file.name, path, file.description, dataset, model, file.training, file.weights, file.seed
    )


def _validate(document: Document, model: type[File]) -> File | None:
    if document.data is None:
        return None
    if not isinstance(document.data, dict):
        document.complain((), "expected a mapping with 'schema_version' and 'name' at the top")
        return None
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        for fault in error.errors():
            place: Place = fault["loc"]
            known = _known(model, place)
            document.complain(place, registry.explain(fault, known))
    return None


def _known(model: type[BaseModel], place: Place) -> list[str]:
    nested: dict[str | int, type[BaseModel]] = {
        "training": TrainingSpec,
        "gates": GateSpec,
        "expect": Expectation,
    }
    owner = nested.get(place[0], model) if len(place) > 1 else model
    return list(owner.model_fields)


def _calls(document: Document, key: str, kind: str) -> tuple[StageSpec, ...]:
    values = document.data.get(key) if isinstance(document.data, dict) else None
    if not isinstance(values, list):
        return ()
    calls = (_call(document, (key, at), kind) for at in range(len(values)))
    return tuple(call for call in calls if call)


def _call(document: Document, place: Place, kind: str) -> StageSpec | None:
    value: Any = document.data
    try:
        for part in place:
            value = value[part]
        name, given = _single(value)["name"], _single(value)["parameters"]
    except (KeyError, TypeError, ValueError):
        return None  # reported by the file's own model
    if name not in registry.names(kind):
        document.complain(place, f"unknown {kind[:-1]} {name!r}{registry.suggest(name, registry.names(kind))}")
        return None
    try:
        return StageSpec(name, registry.bind(kind, name, given))
    except ValidationError as error:
        known = registry.entry(kind, name).parameters
        for fault in error.errors():
            document.complain((*place, name, *fault["loc"]), registry.explain(fault, known))
    return None


def _targets(document: Document) -> tuple[TargetSpec, ...]:
    values = document.data.get("targets") if isinstance(document.data, dict) else None
    targets: list[TargetSpec] = []
    for at, value in enumerate(values if isinstance(values, list) else []):
        try:
            call = _single(value)
        except ValueError:
            continue  # reported by the file's own model
        engine, options = call["name"], call["parameters"]
        if engine not in registry.names("engines"):
            known = registry.suggest(engine, registry.names("engines"))
            document.complain(("targets", at), f"unknown target {engine!r}{known}")
            continue
        if engine in {target.engine for target in targets}:
            document.complain(("targets", at), f"target {engine!r} is given twice")
        for option in set(options) - {"require"}:
            document.complain(
                ("targets", at, engine, option), f"unknown option {option!r}{registry.suggest(option, ['require'])}"
            )
        if not isinstance(options.get("require", False), bool):
            document.complain(("targets", at, engine, "require"), "expected true or false")
        targets.append(TargetSpec(engine, options.get("require", False) is True))
    return tuple(targets)


def _check_chain(
    document: Document, stages: tuple[StageSpec, ...], targets: tuple[TargetSpec, ...]
) -> None:
    for at, target in enumerate(targets):
        try:
            chain(stages, target.engine)
        except ChainError as error:
            place: Place = ("targets", at) if error.at is None else ("stages", error.at)
            document.complain(place, str(error))
            if error.at is not None:
                return


def _check_students(
    document: Document, stages: tuple[StageSpec, ...], baseline: Baseline
) -> None:
    """Parameters that a stage gives to a new model are checked against the baseline's model."""
    model = baseline.model
    for at, stage in enumerate(stages):
        types = registry.entry("stages", stage.name).parameters
        for name, text in types.items():
            given = stage.parameters[name]
            if not text.startswith("ModelParameters") or given is None:
                continue
            try:
                registry.bind("models", model.name, {**model.parameters, **given})
            except ValidationError as error:
                known = registry.entry("models", model.name).parameters
                for fault in error.errors():
                    place: Place = ("stages", at, stage.name, name, *fault["loc"])
                    document.complain(place, registry.explain(fault, known))


def _check_bounds(document: Document, file: _RecipeFile, targets: tuple[TargetSpec, ...]) -> None:
    for name in file.expect:
        if name not in EXPECTED:
            document.complain(("expect", name), f"unknown size {name!r}{registry.suggest(name, EXPECTED)}")
    metrics = (*registry.names("metrics"), *MEASURES)
    engines = [target.engine for target in targets]
    for at, gate in enumerate(file.gates):
        if gate.metric not in metrics:
            document.complain(
                ("gates", at, "metric"), f"unknown metric {gate.metric!r}{registry.suggest(gate.metric, metrics)}"
            )
        if gate.target is not None and gate.target not in engines:
            document.complain(
                ("gates", at, "target"), f"{gate.target!r} is not a target of this recipe ({', '.join(engines)})"
            )
        speed = gate.metric.startswith(("latency", "rows_per"))
        if gate.bound[0] == "min_speedup" and not speed:
            document.complain(("gates", at, "min_speedup"), f"{gate.metric!r} has no speedup")


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain values in the recipe's own layout."""
    return {
        "schema_version": 1,
        "name": recipe.name,
        "description": recipe.description,
        "baseline": recipe.baseline.name,
        "stages": [{stage.name: plain(stage.parameters)} for stage in recipe.stages],
        "targets": [{t.engine: {"require": t.require}} for t in recipe.targets],
        "expect": {name: e.model_dump(exclude_none=True) for name, e in recipe.expect.items()},
        "gates": [gate.model_dump(exclude_none=True) for gate in recipe.gates],
        "seed": recipe.seed,
    }


def resolved_baseline(baseline: Baseline) -> dict[str, Any]:
    """The baseline with every default filled in, as plain values."""
    return {
        "schema_version": 1,
        "name": baseline.name,
        "description": baseline.description,
        "dataset": {baseline.dataset.name: plain(baseline.dataset.parameters)},
        "model": {baseline.model.name: plain(baseline.model.parameters)},
        "training": baseline.training.model_dump(),
        "weights": baseline.weights,
        "seed": baseline.seed,
    }


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and JSON write."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def recipe_json_schema() -> dict[str, Any]:
    """JSON schema of a recipe file, for editors: stages with their own parameters."""
    schema = _RecipeFile.model_json_schema()
    stages = [
        {
            "type": "object",
            "properties": {name: registry.json_schema("stages", name)},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
        for name in registry.names("stages")
    ]
    names = {"enum": list(registry.names("stages"))}
    schema["properties"]["stages"]["items"] = {"anyOf": [names, *stages]}
    schema["properties"]["targets"]["items"] = {
        "anyOf": [{"enum": list(registry.names("engines"))}, {"type": "object", "maxProperties": 1}]
    }
    return schema
