"""A user's own module that scores the whole catalogue, made to give lists like any other model."""

import inspect
from typing import Any

import torch
from torch import nn

from harness.errors import DataError, UnsupportedError
from harness.models.catalogue import LEAST, recommend
from harness.modules import example_feeds, model_inputs
from harness.schema import FeatureSchema

TOP = 50
RESERVED = ("scores", "catalogue", "states", "causal")
"""What training and lists look for on a module; of a user's own it would be taken for that."""
_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def lists_of(module: nn.Module, schema: FeatureSchema, *, top: int | None, where: str) -> nn.Module:
    """The module with ``top``, ``scores(history)`` (requests, items) and a ``forward`` that takes
    ``seen`` too and gives scores and ids of the best items, (requests, top) each.

    The names of its weights stay. One that has an integer ``top`` gives lists already and stays as
    it is. ``where`` starts every message. Raises ``DataError`` for scores or lists of another form
    and for names that are taken, ``UnsupportedError`` for inputs that there aren't and a ``top``
    smaller than 11, larger than the catalogue or other than the module's own.
    """
    items = schema.field(schema.item).cardinality
    own = getattr(module, "top", None)
    if isinstance(own, int):
        if top is not None and top != own:
            raise UnsupportedError(f"{where}: top {top}, but the module gives {own} itself")
        _check_top(own, items, where)
        _check(module, schema, where=where, lists=own)
        return module
    places = TOP if top is None else top
    _check_top(places, items, where)
    taken = [name for name in ("top", *RESERVED) if hasattr(module, name)]
    if taken:
        raise DataError(
            f"{where} has a {taken[0]!r} of its own, which means something else here; rename it"
        )
    if "seen" in inspect.signature(module.forward).parameters:
        raise DataError(f"{where}: forward takes 'seen', which is left out of its lists anyway")
    _check(module, schema, where=where, lists=None)
    module.__class__ = _listing(type(module), places)
    return module


def _check_top(top: int, items: int, where: str) -> None:
    if top < LEAST:
        raise UnsupportedError(f"{where}: top {top}: a list has at least {LEAST} places")
    if top > items - 1:
        raise UnsupportedError(f"{where}: top {top}: the catalogue has {items - 1} items")


def _check(module: nn.Module, schema: FeatureSchema, *, where: str, lists: int | None) -> None:
    """Run it on two requests of padding; it must give a score of every item, or ``lists`` long."""
    feeds = example_feeds(model_inputs(module, schema), requests=2, candidates=3)
    training = module.training
    try:
        with torch.no_grad():
            found = module.eval()(**feeds)
    except _FAULTS as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{where}: forward fails on two histories of padding: {reason}") from error
    finally:
        module.train(training)
    items = schema.field(schema.item).cardinality
    wanted = [(2, lists, True), (2, lists, False)] if lists else [(2, items, True)]
    parts = [p for p in (found if isinstance(found, tuple) else (found,)) if torch.is_tensor(p)]
    if [(*part.shape, part.is_floating_point()) for part in parts] != wanted:
        came = " and ".join(f"{part.dtype} {tuple(part.shape)}" for part in parts)
        form = f"scores and item ids, (2, {lists}) each" if lists else f"scores (2, {items})"
        raise DataError(
            f"{where}: for 2 requests forward gave {came or type(found).__name__}, expected {form}"
            "; an item's column is its id, and id 0 is padding"
        )


def _listing(kind: type[nn.Module], places: int) -> type[nn.Module]:
    """A class of modules that give lists from the scores that ``kind`` gives."""
    own = kind.forward
    named = list(inspect.signature(own).parameters.values())

    def scores(self: Any, **past: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = own(self, **past)
        return found

    def forward(self: Any, **given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = given.pop("seen", None)
        return recommend(own(self, **given), seen, top=places)

    seen = inspect.Parameter("seen", inspect.Parameter.KEYWORD_ONLY, default=None)
    forward.__signature__ = inspect.Signature([*named, seen])  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), {"forward": forward, "scores": scores, "top": places})
