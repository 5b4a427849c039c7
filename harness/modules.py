"""torch modules in and out of artifacts: safetensors plus a spec, rebuilt and fitted to its shapes.

A pruned model has other widths than its class builds; loading rebuilds the class and then takes
each tensor's shape from the file. Nothing is unpickled.
"""

import inspect
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.artifact import Artifact, ModelSpec, write_artifact
from harness.checkpoints import read_tensors
from harness.errors import DataError, UnsupportedError
from harness.halved import HALVES, halve
from harness.schema import GROUPS, FeatureSchema, read_schema
from harness.tables import PAST, PER_REQUEST, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


SCHEMA_FILES = ("schema.json", "vocabulary.json")


def model_inputs(module: "nn.Module", schema: FeatureSchema) -> tuple[TensorSpec, ...]:
    """The inputs that a module's ``forward`` names.

    A request-shaped model names groups of ``schema.GROUPS`` and has ``candidates``; groups without
    a field are left out. A next-item model names ``history``, ``seen`` or groups of the user and
    the context. Any other model is flat, (rows,): each parameter names a field, or is ``user`` or
    ``item`` (their ids) or ``dense`` (all numbers). Raises ``UnsupportedError``.
    """
    names = list(inspect.signature(module.forward).parameters)
    if schema.task == "next_item":
        return _next_item_specs(schema, names)
    if "candidates" in names:
        return tuple(
            _group_spec(schema, group)
            for group, _, _ in GROUPS
            if group in names and schema.group(group)
        )
    return tuple(_flat_spec(schema, name) for name in names)


def _next_item_specs(schema: FeatureSchema, names: list[str]) -> tuple[TensorSpec, ...]:
    known = (*PAST, *PER_REQUEST)
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise UnsupportedError(
            f"a next-item model takes {', '.join(known)}; this one takes "
            f"{', '.join(names) or 'nothing'}"
        )
    lengths: dict[str, int | str] = {"history": schema.length, "seen": "seen"}
    past = [
        TensorSpec(name, "int64", ("requests", lengths[name]), (schema.item,))
        for name in PAST
        if name in names and not (name == "seen" and schema.repeats)
    ]
    groups = [g for g, _, _ in GROUPS if g in names and schema.group(g)]
    return (*past, *(_group_spec(schema, group) for group in groups))


def _group_spec(schema: FeatureSchema, group: str) -> TensorSpec:
    fields = tuple(field.name for field in schema.group(group))
    dtype = "float32" if group.endswith("values") else "int64"
    free = ("requests",) if group in PER_REQUEST else ("requests", "candidates")
    return TensorSpec(group, dtype, (*free, len(fields)), fields)


def _flat_spec(schema: FeatureSchema, name: str) -> TensorSpec:
    numeric = tuple(f.name for f in schema.fields if f.kind == "numeric")
    if name == "dense" and numeric:
        return TensorSpec(name, "float32", ("rows", len(numeric)), numeric)
    column = {"user": schema.user, "item": schema.item}.get(name, name)
    known = {f.name: f for f in schema.fields}
    if column not in known:
        raise UnsupportedError(
            f"model input {name!r} names no field of the data"
            f"{registry.suggest(name, [*known, 'user', 'item', 'dense'])}"
        )
    dtype = "float32" if known[column].kind == "numeric" else "int64"
    return TensorSpec(name, dtype, ("rows",), (column,))


def model_outputs(module: "nn.Module", inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """One output, ``logits``: (requests, candidates), or (rows,) for flat models. Of a next-item
    model ``scores`` and ``items``, (requests, top) each, best first.
    """
    top = getattr(module, "top", None)
    if isinstance(top, int):
        shape = ("requests", top)
        return (TensorSpec("scores", "float32", shape), TensorSpec("items", "int64", shape))
    flat = inputs[0].shape[0] == "rows"
    return (TensorSpec("logits", "float32", ("rows",) if flat else ("requests", "candidates")),)


def build_module(spec: ModelSpec, schema: FeatureSchema, *, folder: Path, seed: int) -> "nn.Module":
    """A fresh module of a spec, initialised from ``seed``; paths start at ``folder``."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parameters = dict(spec.parameters)
        if spec.name not in (known := registry.names("models")):
            raise DataError(f"{folder}: no model {spec.name!r}{registry.suggest(spec.name, known)}")
        if spec.source:
            parameters["path"] = str(folder / spec.source)
        build = registry.resolve("models", spec.name)
        module: nn.Module = build(schema, **parameters)
        if spec.layers:
            from harness.compressed import place_layers

            place_layers(module, spec.layers)
    return module


def axis_sizes(requests: int, candidates: int) -> dict[str, int]:
    """Size of every free axis in examples of some size; as many items were seen as there are
    candidates, and two more, so that no two axes are taken for one.
    """
    rows = requests * candidates
    return {"requests": requests, "candidates": candidates, "rows": rows, "seen": candidates + 2}


def example_feeds(
    inputs: tuple[TensorSpec, ...], *, requests: int, candidates: int
) -> dict[str, Any]:
    """Zero-filled torch inputs of a given size (id 0 is always legal), by name."""
    import torch

    sizes = axis_sizes(requests, candidates)
    return {
        spec.name: torch.zeros(
            [sizes[d] if isinstance(d, str) else d for d in spec.shape],
            dtype=getattr(torch, spec.dtype),
        )
        for spec in inputs
    }


def save_module(module: "nn.Module", artifact: Artifact, folder: Path) -> Artifact:
    """Write a module as a torch artifact in ``folder``, described after ``artifact`` (its schema,
    model spec and lineage are carried over; sizes and widths are read from the module).
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().contiguous() for name, tensor in _unshared(module).items()}
    save_file(tensors, folder / "weights.safetensors")
    copy_description(artifact, folder)
    parameters, embedding = count_parameters(module)
    return write_artifact(
        replace(
            artifact,
            folder=folder,
            format="torch",
            parameters=parameters,
            embedding_parameters=embedding,
            macs=count_macs(module, artifact.inputs),
            widths=linear_widths(module),
        )
    )


def _unshared(module: "nn.Module") -> dict[str, "torch.Tensor"]:
    """The state without second names of one storage (tied weights are stored once)."""
    seen: set[int] = set()
    state = {}
    for name, tensor in module.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        state[name] = tensor
    return state


def copy_description(artifact: Artifact, folder: Path) -> None:
    """Copy the schema, the vocabularies and a user's model source into ``folder``."""
    for name in (*SCHEMA_FILES, *([artifact.model.source] if artifact.model.source else [])):
        if (artifact.folder / name).resolve() != (folder / name).resolve():
            shutil.copyfile(artifact.folder / name, folder / name)


def load_module(artifact: Artifact) -> "nn.Module":
    """The module of a torch artifact, in eval mode; raises ``DataError`` when keys or shapes of
    the file don't fit the model's class, or the class would be far larger than the file. Weights
    that ``clip_weights`` made zero stay zero when it is trained.
    """
    from harness.bounded import bounded_by

    schema, _ = read_schema(artifact.folder)
    tensors = read_tensors(artifact.file)
    with bounded_by(tensors, where=str(artifact.file)):
        module = build_module(artifact.model, schema, folder=artifact.folder, seed=0)
    load_weights(module, tensors, where=str(artifact.file), fit=True)
    if any(step.stage == "clip_weights" for step in artifact.lineage):
        from harness.clipped import hold_zeros

        hold_zeros(module)
    if artifact.precision in HALVES:
        halve(module, artifact.precision)
    return module.eval()


def load_weights(
    module: "nn.Module", tensors: Mapping[str, "torch.Tensor"], *, where: str, fit: bool = False
) -> None:
    """Put tensors into a module; with ``fit`` the module takes their shapes (pruned widths).

    Raises ``DataError`` naming missing, extra, misshapen and non-finite tensors.
    """
    import torch

    own = module.state_dict()
    tied = set(own) - set(_unshared(module))
    missing, extra = sorted(set(own) - set(tensors) - tied), sorted(set(tensors) - set(own))
    wrong = [
        f"{name} has shape {tuple(tensors[name].shape)}, the model {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(tensors))
        if not fit and own[name].shape != tensors[name].shape
    ]
    # Of a shape that is wrong nothing more is asked: it may be that of a far larger tensor.
    fits = {n: t for n, t in tensors.items() if fit or (n in own and own[n].shape == t.shape)}
    bad = [n for n, t in fits.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    faults = [f"missing {', '.join(missing)}"] if missing else []
    faults += [f"unexpected {', '.join(extra)}"] if extra else []
    faults += wrong + ([f"not finite: {', '.join(sorted(bad))}"] if bad else [])
    if faults:
        raise DataError(f"{where}: weights don't fit the model: {'; '.join(faults)}")
    if fit:
        _fit_shapes(module, tensors)
    module.load_state_dict(dict(tensors), strict=not tied)


_SIZES = {
    "Linear": ("out_features", "in_features"),
    "Embedding": ("num_embeddings", "embedding_dim"),
    "LayerNorm": ("normalized_shape",),
    "BatchNorm1d": ("num_features",),
}


def _fit_shapes(module: "nn.Module", tensors: Mapping[str, "torch.Tensor"]) -> None:
    import torch
    from torch import nn

    for name, tensor in tensors.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        current = getattr(owner, leaf)
        if current.shape == tensor.shape:
            continue
        empty = torch.empty_like(tensor)
        fitted = nn.Parameter(empty) if isinstance(current, nn.Parameter) else empty
        setattr(owner, leaf, fitted)
        if leaf == "weight":
            for attribute, size in zip(
                _SIZES.get(type(owner).__name__, ()), tensor.shape, strict=False
            ):
                shape = attribute == "normalized_shape"
                setattr(owner, attribute, (int(size),) if shape else int(size))


def count_parameters(module: "nn.Module") -> tuple[int, int]:
    """Numbers stored in all parameters, and in the embedding tables among them; what says which
    rows of a table its ids share counts too.
    """
    from torch import nn

    from harness.compressed import stored_ids

    total = sum(parameter.numel() for parameter in module.parameters())
    tables = {m.weight for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    ids = stored_ids(module)
    return total + ids, sum(table.numel() for table in tables) + ids


def linear_widths(module: "nn.Module") -> dict[str, tuple[int, ...]]:
    """Shape (out, in) of every Linear weight, by module name."""
    from torch import nn

    return {n: tuple(m.weight.shape) for n, m in module.named_modules() if isinstance(m, nn.Linear)}


def count_macs(module: "nn.Module", inputs: tuple[TensorSpec, ...]) -> int:
    """Multiply-accumulates per scored row, counted by torch's dispatcher on one forward of a
    request of 64 candidates (per-request work is shared by them); of a next-item model per request.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    axes = {axis for spec in inputs for axis in spec.shape}
    candidates = 64 if axes & {"rows", "candidates"} else 1
    counter = FlopCounterMode(display=False)
    training = module.training
    with torch.no_grad(), counter:
        module.eval()(**example_feeds(inputs, requests=1, candidates=candidates))
    module.train(training)
    return int(counter.get_total_flops()) // 2 // candidates
