"""Schemas of any shape and both forms of a model on them, for the tests of exact rewrites."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.artifact import ModelSpec
from harness.modules import build_module, load_weights, model_inputs
from harness.schema import FeatureSchema, Field

SHAPES = ((1, 1), (3, 7), (64, 1))


def made_schema(
    *, users: int = 1, items: int = 1, contexts: int = 0, numbers: tuple[int, int, int] = (0, 0, 0)
) -> FeatureSchema:
    """A schema of so many categorical fields of each role, and numbers of user, context, item."""
    fields = [
        Field(f"{role}{at}", "categorical", role, cardinality=3 + 2 * at + len(role))
        for role, count in (("user", users), ("item", items), ("context", contexts))
        for at in range(count)
    ]
    fields += [
        Field(f"{role}_number{at}", "numeric", role)
        for role, count in zip(("user", "context", "item"), numbers, strict=True)
        for at in range(count)
    ]
    return FeatureSchema(tuple(fields), "label", "user0", "item0")


def both_forms(
    schema: FeatureSchema, spec: ModelSpec, changes: Mapping[str, Any], *, seed: int = 0
) -> tuple[nn.Module, nn.Module]:
    """An untrained model, and the same in another form with its weights."""
    before = build_module(spec, schema, folder=Path(), seed=seed).eval()
    return before, in_form(before, schema, ModelSpec(spec.name, {**spec.parameters, **changes}))


def in_form(before: nn.Module, schema: FeatureSchema, spec: ModelSpec) -> nn.Module:
    """A model in the form that ``spec`` says, with the weights of ``before``."""
    after = build_module(spec, schema, folder=Path(), seed=99)
    load_weights(after, after.state_from(before), where="test", fit=True)
    return after.eval()


def form_feeds(
    module: nn.Module, schema: FeatureSchema, sizes: tuple[int, int], *, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random inputs for ``sizes`` = (requests, candidates); the first request's ids are unknown."""
    random = np.random.default_rng(seed)
    requests, candidates = sizes
    found = {}
    for spec in model_inputs(module, schema):
        shape = [*(requests, candidates)[: len(spec.shape) - 1], len(spec.fields)]
        if spec.dtype == "int64":
            limits = [schema.field(name).cardinality for name in spec.fields]
            array = random.integers(0, limits, size=shape)
            array[0] = 0
        else:
            array = random.normal(size=shape).astype(np.float32)
        found[spec.name] = torch.from_numpy(array)
    return found


def largest_gap(one: nn.Module, other: nn.Module, schema: FeatureSchema) -> float:
    """The largest difference of scores over ``SHAPES``, relative where scores are above 1."""
    gaps = []
    with torch.inference_mode():
        for sizes in SHAPES:
            feeds = form_feeds(one, schema, sizes)
            found, expected = other(**feeds), one(**feeds)
            assert found.shape == expected.shape == sizes
            scale = max(1.0, float(expected.abs().max()))
            gaps.append(float((found - expected).abs().max()) / scale)
    return max(gaps)
