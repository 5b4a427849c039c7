"""torch -> torch: the item table of a next-item model in product codes, a byte for each part of a
vector, for looking up and for scoring (RecJPQ: Petrov and Macdonald 2024, arXiv:2312.06165).

RecJPQ assigns the codes from users and items before the model is trained; here the table is trained
already, and the codes are those of its vectors.
"""

from typing import TYPE_CHECKING

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.modules import load_module
from harness.params import Count
from harness.schema import UNKNOWN
from harness.stages.base import Context, Outcome, stage
from harness.stages.exact_lists import list_overlap
from harness.stages.export_onnx import module_outputs
from harness.stages.layer_forms import put_layers, save_layers, sizes
from harness.stages.list_check import require_lists
from harness.stages.product_codes import ProductCodes, product_codes
from harness.stages.rewriting import validation_batches
from harness.stages.table_reads import FLOAT, read_error

if TYPE_CHECKING:
    import torch
    from torch import nn

STAGE = "quantize_catalogue"
TABLE = "catalogue.vectors"
MOST = 256
"""Centroids that a byte can name."""
SMALL = 100_000
"""Items below which a plain table is read about as quickly."""


@stage(accepts="torch", produces="torch", technique="open_like")
def quantize_catalogue(
    artifact: Artifact, context: Context, *, splits: Count = 8, centroids: Count = 256
) -> Outcome:
    """Store each item as ``splits`` bytes, each of which names one of ``centroids`` for that part
    of its vector (k-means of the trained vectors). Looking up and scoring read the same codes; a
    score is a sum of ``splits`` numbers, and what is multiplied doesn't grow with the catalogue.

    Codes stay as they are, a stage that trains afterwards trains the centroids. Raises
    ``UnsupportedError`` for a model whose items aren't a table of its own that it scores with, for
    splits that don't divide its dimension, and for more than 256 centroids or fewer items than
    centroids; ``EffectError`` where the table is in codes already or wouldn't shrink.
    """
    if not 2 <= centroids <= MOST:
        raise UnsupportedError(
            f"{STAGE}: centroids {centroids}: a code is a byte, expected 2 to {MOST}"
        )
    require_uncoded(artifact)
    require_lists(artifact, stage=STAGE)
    module, exact = load_module(artifact), load_module(artifact)
    table = _table(module, artifact)
    _check(table, splits, centroids)
    asked = _bytes(table, splits, centroids)
    context.progress(f"finding {splits} x {centroids} centroids", 0.1)
    found = product_codes(table[UNKNOWN + 1 :], splits=splits, count=centroids, seed=context.seed)
    form = ("product_codes", {"splits": splits, "centroids": centroids})
    put_layers(module, {TABLE: form})
    stored = _fill(module, found)
    made = save_layers(module, {TABLE: form}, artifact, context)
    context.progress("comparing lists", 0.7)
    effects = (
        Effect("table_bytes", table.numel() * FLOAT, stored, asked=asked, unit="bytes"),
        *sizes(artifact, made),
        Effect("centroids", 0, min(found.used), asked=centroids, unit="used, the least of a split"),
        Effect("row_error", 0.0, _error(module, table), unit="share of the rows' length"),
        Effect("list_overlap", 1.0, _overlap(module, exact, artifact, context), unit="share"),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
    )
    return Outcome(made, effects, _notes(table))


def require_uncoded(artifact: Artifact) -> None:
    """Raise ``EffectError`` where the table is in codes already."""
    if artifact.model.layers.get(TABLE, {}).get("form") == "product_codes":
        raise EffectError(f"{STAGE}: the catalogue is in product codes already; leave it out")


def _table(module: "nn.Module", artifact: Artifact) -> "torch.Tensor":
    """The item vectors, (items, dim)."""
    from torch import nn

    if not hasattr(module, "catalogue"):
        raise UnsupportedError(
            f"{STAGE}: model {artifact.model.name!r} scores its items by itself, and no layer of "
            "it is known to be their table; sasrec, gru4rec and mf_ranking have one"
        )
    layer = module.get_submodule(TABLE)
    if not isinstance(layer, nn.Embedding):
        raise UnsupportedError(
            f"{STAGE}: {TABLE} is a {type(layer).__name__}, expected a plain table; put {STAGE} "
            "before the stage that gave it another form"
        )
    return layer.weight.detach()


def _check(table: "torch.Tensor", splits: int, centroids: int) -> None:
    items, dim = table.shape
    if dim % splits:
        fit = ", ".join(str(number) for number in range(1, dim + 1) if dim % number == 0)
        raise UnsupportedError(f"{STAGE}: splits {splits} don't divide dim {dim}; {fit} do")
    if items - 1 < centroids:
        raise UnsupportedError(
            f"{STAGE}: {items - 1} items are fewer than {centroids} centroids; lower centroids"
        )
    if _bytes(table, splits, centroids) >= table.numel() * FLOAT:
        raise EffectError(
            f"{STAGE} had no effect: codes and centroids of {items} rows are "
            f"{_bytes(table, splits, centroids):,} bytes, the table is {table.numel() * FLOAT:,}; "
            "lower centroids or splits"
        )


def _bytes(table: "torch.Tensor", splits: int, centroids: int) -> int:
    """Bytes of codes and centroids."""
    items, dim = table.shape
    return int(items * splits + centroids * dim * FLOAT)


def _fill(module: "nn.Module", found: ProductCodes) -> int:
    """Give the table its codes and centroids; gives their bytes."""
    import torch

    layer = module.get_submodule(TABLE)
    codes, centroids = layer.get_buffer("codes"), layer.get_parameter("centroids.weight")
    with torch.no_grad():
        codes[UNKNOWN + 1 :] = found.codes  # no item's stay 0, and its vector zeros
        centroids.copy_(found.centroids.flatten(0, 1))
    return codes.numel() * codes.element_size() + centroids.numel() * centroids.element_size()


def _error(module: "nn.Module", table: "torch.Tensor") -> float:
    """The root of the squared error of all vectors over their squared length."""
    error, length = read_error(module.get_submodule(TABLE), table, np.ones(len(table)))
    return float(np.sqrt(error / length)) if length else 0.0


def _overlap(
    module: "nn.Module", exact: "nn.Module", artifact: Artifact, context: Context
) -> float:
    """The mean share of the exact model's lists that the lists hold, on validation rows; histories
    are looked up in codes too.
    """
    shares = [
        list_overlap(*((out[0], out[1]) for out in outputs), tolerance=0.0)
        for batch in validation_batches(artifact, context)
        if (outputs := [module_outputs(one, batch) for one in (module.eval(), exact)])
    ]
    known = np.concatenate(shares)
    known = known[~np.isnan(known)]
    if not len(known):
        raise EffectError(f"{STAGE}: no validation row has anything left to recommend")
    return float(known.mean())


def _notes(table: "torch.Tensor") -> tuple[str, ...]:
    items, size = len(table) - 1, table.numel() * FLOAT
    notes = ["codes stay as they are when the model is trained on; centroids are trained"]
    if items < SMALL:
        notes.append(
            f"{items:,} items: a plain table of that size is {size:,} bytes; expect to be slower, "
            f"codes are for catalogues of {SMALL:,} items and more"
        )
    return tuple(notes)
