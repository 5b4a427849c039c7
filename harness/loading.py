"""Recipe and baseline files checked whole: every mistake of every file at once, with its place.

Nothing here runs, imports or probes anything: parameters are checked against the source of the
catalog entry they belong to.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from harness import registry
from harness.document import Document, Place, read_document
from harness.errors import Problem, RecipeError
from harness.params import Text, Whole
from harness.profile import Bench
from harness.recipe import (
    EXPECTED,
    MEASURES,
    Baseline,
    ChainError,
    Expectation,
    GateSpec,
    Name,
    Recipe,
    StageSpec,
    Strict,
    TargetSpec,
    TrainingSpec,
    chain,
)

File = TypeVar("File", bound=BaseModel)


def _single(value: Any) -> Any:
    """``name`` or ``{name: {...}}`` as the pair (name, parameters)."""
    if isinstance(value, str):
        return {"name": value, "parameters": {}}
    if isinstance(value, dict) and len(value) == 1:
        name, parameters = next(iter(value.items()))
        if parameters is None or isinstance(parameters, dict):
            return {"name": name, "parameters": parameters or {}}
    raise ValueError(f"expected a name, or one name with its parameters, got {value!r}")


class _Call(Strict):
    name: Text
    parameters: dict[str, Any]


Call = Annotated[_Call, BeforeValidator(_single)]


class _BaselineFile(Strict):
    schema_version: Literal[1]
    name: Name
    description: Text = ""
    dataset: Call
    model: Call
    training: TrainingSpec = TrainingSpec()
    weights: Text | None = None
    seed: Whole = 7


class _RecipeFile(Strict):
    schema_version: Literal[1]
    name: Name
    description: Text = ""
    baseline: Text
    stages: tuple[Call, ...] = ()
    targets: Annotated[tuple[Call, ...], AfterValidator(lambda v: _not_empty(v))]
    expect: dict[Text, Expectation] = Field(default_factory=dict)
    gates: tuple[GateSpec, ...] = ()
    bench: Bench = Bench()
    seed: Whole = 7


def _not_empty(values: tuple[_Call, ...]) -> tuple[_Call, ...]:
    if not values:
        raise ValueError("name at least one target, such as ort-cpu")
    return values


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
    problems: list[Problem] = []
    first: dict[str, Recipe] = {}
    for recipe in recipes:
        other = first.setdefault(recipe.name.lower(), recipe)
        if other is not recipe:
            message = (
                f"{recipe.name!r} is also the name of {other.file}; names are compared without case"
            )
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
        file.name,
        path,
        file.description,
        baseline,
        stages,
        targets,
        file.expect,
        file.gates,
        file.seed,
        file.bench,
    )


def _find_baseline(document: Document, folder: Path, name: str) -> Path | None:
    places = (
        [folder / name]
        if name.endswith((".yaml", ".yml"))
        else [folder.parent / "baselines" / f"{name}.yaml", folder / "baselines" / f"{name}.yaml"]
    )
    found = next((place for place in places if os.path.isfile(place)), None)
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
        "bench": Bench,
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
        document.complain(
            place, f"unknown {kind[:-1]} {name!r}{registry.suggest(name, registry.names(kind))}"
        )
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
                ("targets", at, engine, option),
                f"unknown option {option!r}{registry.suggest(option, ['require'])}",
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


def _check_students(document: Document, stages: tuple[StageSpec, ...], baseline: Baseline) -> None:
    """Parameters that a stage gives to a new model are checked against the baseline's model."""
    for at, stage in enumerate(stages):
        types = registry.entry("stages", stage.name).parameters
        for name, text in types.items():
            given, place = stage.parameters[name], ("stages", at, stage.name, name)
            if given is None:
                continue
            if text.startswith("ModelParameters"):
                _check_student(document, place, given, baseline)
            if text.startswith("ModelChoices"):
                _check_choices(document, place, given, baseline)


def _check_student(
    document: Document, place: Place, given: Mapping[str, Any], baseline: Baseline
) -> None:
    model = baseline.model
    try:
        registry.bind("models", model.name, {**model.parameters, **given})
    except ValidationError as error:
        known = registry.entry("models", model.name).parameters
        for fault in error.errors():
            document.complain((*place, *fault["loc"]), registry.explain(fault, known))


def _check_choices(
    document: Document, place: Place, given: Mapping[str, Any], baseline: Baseline
) -> None:
    """Each value alone; an unknown parameter is told once."""
    known = registry.entry("models", baseline.model.name).parameters
    for name, values in given.items():
        for value in values if name in known else values[:1]:
            _check_student(document, place, {name: value}, baseline)


def _check_bounds(document: Document, file: _RecipeFile, targets: tuple[TargetSpec, ...]) -> None:
    for name in file.expect:
        if name not in EXPECTED:
            document.complain(
                ("expect", name), f"unknown size {name!r}{registry.suggest(name, EXPECTED)}"
            )
    metrics = (*registry.names("metrics"), *MEASURES)
    engines = [target.engine for target in targets]
    for at, gate in enumerate(file.gates):
        if gate.metric not in metrics:
            document.complain(
                ("gates", at, "metric"),
                f"unknown metric {gate.metric!r}{registry.suggest(gate.metric, metrics)}",
            )
        if gate.target is not None and gate.target not in engines:
            document.complain(
                ("gates", at, "target"),
                f"{gate.target!r} is not a target of this recipe ({', '.join(engines)})",
            )
        speed = gate.metric.startswith(("latency", "rows_per"))
        if gate.bound[0] == "min_speedup" and not speed:
            document.complain(("gates", at, "min_speedup"), f"{gate.metric!r} has no speedup")


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
