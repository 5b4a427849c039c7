"""Layers of fewer numbers that stand in the place of a model's own.

A model's class builds its own layers; ``ModelSpec.layers`` says which of them have another form:
``{name: {"form": ..., **its parameters}}``. ``build_module`` puts them in their places, in that
order, so that a part of such a layer may have another form itself. As with pruned widths, shapes
are then taken from the stored tensors. None of these layers has a ``weight``: code that reads the
weights of a layer instead of calling it fails and is never served stale ones.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import DataError
from harness.registry import suggest


class LowRankLinear(nn.Module):
    """A Linear whose weight is a product: (outputs, rank) of ``up`` by (rank, inputs) of
    ``down``.
    """

    def __init__(self, linear: nn.Linear, *, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """(..., inputs) -> (..., outputs)."""
        found: torch.Tensor = self.up(self.down(input))
        return found

    @property
    def bias(self) -> nn.Parameter | None:
        """The Linear's bias, (outputs,)."""
        return self.up.bias

    @property
    def in_features(self) -> int:
        """Inputs, as of a Linear."""
        return self.down.in_features

    @property
    def out_features(self) -> int:
        """Outputs, as of a Linear."""
        return self.up.out_features


class LowRankTable(nn.Module):
    """An embedding table that is a product: (rows, rank) by (rank, dim). A row of zeros for
    padding stays one: ``up`` has no bias.
    """

    def __init__(self, table: nn.Embedding, *, rank: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(table.num_embeddings, rank, padding_idx=table.padding_idx)
        self.up = nn.Linear(rank, table.embedding_dim, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """(...) ids -> (..., dim)."""
        found: torch.Tensor = self.up(self.rows(input))
        return found

    @property
    def num_embeddings(self) -> int:
        """Rows that ids may name, as of an Embedding."""
        return self.rows.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Numbers of a vector, as of an Embedding."""
        return self.up.out_features


class HashedRows(nn.Module):
    """An embedding table with fewer rows than ids: ``hot`` ids have a row of their own, the others
    share ``buckets`` (Weinberger et al. 2009, arXiv:0902.2206).

    An id's place is the id itself or, where ``ordered``, what ``order`` says; places below ``hot``
    are exact. Ids are numbered without gaps, so the remainder of a place is a hash that fills all
    buckets alike. Everything is whole numbers below the rows that there were: nothing is rounded,
    and an engine that counts in 32 bits finds the same rows.
    """

    order: torch.Tensor | None

    def __init__(self, table: nn.Embedding, *, hot: int, buckets: int, ordered: bool) -> None:
        super().__init__()
        self.num_embeddings, self.hot, self.buckets = table.num_embeddings, hot, buckets
        padding = None if table.padding_idx is None else 0  # the padding row has the first place
        self.rows = nn.Embedding(hot + buckets, table.embedding_dim, padding_idx=padding)
        # In 32 bits and a column: an embedding of one number, which exports to one Gather.
        column = torch.zeros(table.num_embeddings, 1, dtype=torch.int32) if ordered else None
        self.register_buffer("order", column)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """(...) ids -> (..., dim)."""
        found: torch.Tensor = self.rows(self.row_of(self.place_of(input)))
        return found

    def place_of(self, ids: torch.Tensor) -> torch.Tensor:
        """The place (...) of each id."""
        return ids if self.order is None else F.embedding(ids, self.order).squeeze(-1).long()

    def row_of(self, places: torch.Tensor) -> torch.Tensor:
        """The row (...) of each place: itself below ``hot``, else one of the buckets above."""
        # The second is below the first from ``hot`` on, and not before: no branch is needed.
        return torch.minimum(places, self.hot + (places + -self.hot % self.buckets) % self.buckets)

    @property
    def embedding_dim(self) -> int:
        """Numbers of a vector, as of an Embedding."""
        return self.rows.embedding_dim


class QuotientRemainder(HashedRows):
    """A table whose vectors are sums of two rows, that of a place's remainder and that of its
    quotient by ``buckets`` (Shi et al. 2020, arXiv:1909.02107): no two ids have the same pair.

    A place below ``hot`` has a remainder row of its own and quotient 0, whose row is zeros and
    isn't trained. The paper multiplies where it trains anew; a sum has a row that changes nothing,
    and the sum nearest to a trained table can be worked out.
    """

    def __init__(self, table: nn.Embedding, *, hot: int, buckets: int, ordered: bool) -> None:
        super().__init__(table, hot=hot, buckets=buckets, ordered=ordered)
        quotients = quotient_rows(table.num_embeddings, hot=hot, buckets=buckets)
        self.quotients = nn.Embedding(quotients, table.embedding_dim, padding_idx=0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """(...) ids -> (..., dim)."""
        places = self.place_of(input)
        found: torch.Tensor = self.rows(self.row_of(places)) + self.quotients(
            self.quotient_of(places)
        )
        return found

    def quotient_of(self, places: torch.Tensor) -> torch.Tensor:
        """The quotient row (...) of each place, 0 below ``hot``."""
        # Not torch.div: exported, that divides in fp32, which is wrong above 2^24.
        above = (places + (self.buckets - self.hot)).clamp(min=0)
        return torch.floor_divide(above, self.buckets)


def _rows(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows of a table that was worked out; as an export of index_select the ids had 64 bits."""
    if torch.compiler.is_exporting():
        return F.embedding(ids, table)
    return table.index_select(0, ids)


def quotient_rows(rows: int, *, hot: int, buckets: int) -> int:
    """Quotient rows of so many ids, that of the hot ones included."""
    return 1 + -(-(rows - hot) // buckets)


class ProductTable(nn.Module):
    """An item table whose vectors are parts put together, each one of a few ``centroids`` (product
    quantisation: Jegou et al. 2011, doi:10.1109/TPAMI.2010.57; of the items of next-item models
    RecJPQ, Petrov and Macdonald 2024, arXiv:2312.06165).

    ``codes`` (rows, splits) say which, a byte a part. Centroids are trained, codes are not. The
    padding row is zeros whatever its codes are.
    """

    codes: torch.Tensor

    def __init__(self, table: nn.Embedding, *, splits: int, centroids: int) -> None:
        super().__init__()
        self.splits, self.padding_idx = splits, table.padding_idx
        self.centroids = nn.Embedding(splits * centroids, table.embedding_dim // splits)
        codes = torch.zeros(table.num_embeddings, splits, dtype=torch.uint8)
        self.register_buffer("codes", codes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """(...) ids -> (..., dim)."""
        vectors = self._joined(F.embedding(input, self.codes))
        if self.padding_idx is None:
            return vectors
        return vectors * (input != self.padding_idx).unsqueeze(-1)

    def table(self) -> torch.Tensor:
        """The vectors of all items, (rows, dim), as look-ups give them."""
        vectors = self._joined(self.codes)
        if self.padding_idx is None:
            return vectors
        rows = torch.arange(len(vectors), device=vectors.device)
        return vectors * (rows != self.padding_idx).unsqueeze(-1)

    def _joined(self, codes: torch.Tensor) -> torch.Tensor:
        """The vectors (..., dim) of codes (..., splits)."""
        starts = torch.arange(self.splits, device=codes.device) * self.centroids_each
        found: torch.Tensor = self.centroids(codes.long() + starts).flatten(-2)
        return found

    def products(self, queries: torch.Tensor) -> torch.Tensor:
        """The part of each query (requests, dim) times each centroid of that part, (splits,
        centroids, requests): all that is multiplied, whatever the number of items.
        """
        centroids = self.centroids.weight.reshape(self.splits, self.centroids_each, -1)
        parts = queries.reshape(-1, self.splits, centroids.shape[2]).permute(1, 2, 0)
        return centroids @ parts

    def scores(self, products: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Scores (requests, last - first) of the items from ``first`` up to ``last``: sums of what
        ``products`` gave. The padding row's is any number.
        """
        codes = (self.codes if last - first >= len(self.codes) else self.codes[first:last]).int()
        # Rows of a number for each request: along the other axis each number is found by itself.
        total = _rows(products[0], codes[:, 0])
        for split in range(1, self.splits):
            total = total + _rows(products[split], codes[:, split])
        return total.T

    @property
    def centroids_each(self) -> int:
        """Centroids of a part."""
        return self.centroids.num_embeddings // self.splits

    @property
    def num_embeddings(self) -> int:
        """Rows that ids may name, as of an Embedding."""
        return len(self.codes)

    @property
    def embedding_dim(self) -> int:
        """Numbers of a vector, as of an Embedding."""
        return self.splits * self.centroids.embedding_dim


FORMS: Mapping[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "low_rank_linear": (LowRankLinear, nn.Linear),
    "low_rank_table": (LowRankTable, nn.Embedding),
    "hashed_rows": (HashedRows, nn.Embedding),
    "quotient_remainder": (QuotientRemainder, nn.Embedding),
    "product_codes": (ProductTable, nn.Embedding),
}
"""A form's class, and the class of layer that it stands for."""


def place_layers(module: nn.Module, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the ``layers`` of a spec into a module, in order; their numbers are drawn anew.

    Raises ``DataError`` for a form that isn't known, a layer that isn't there or is of another
    class, and parameters that the form doesn't take.
    """
    for name, told in layers.items():
        parameters = dict(told)
        form = parameters.pop("form", None)
        if form not in FORMS:
            raise DataError(
                f"layer {name!r}: form {form!r} isn't known{suggest(str(form), FORMS)}; "
                "remake the artifact with this version"
            )
        made, own = FORMS[form]
        try:
            layer = module.get_submodule(name)
        except AttributeError as error:
            raise DataError(f"layer {name!r} of form {form!r}: the model has no such layer") from (
                error
            )
        if not isinstance(layer, own):
            raise DataError(
                f"layer {name!r} is a {type(layer).__name__}, form {form!r} stands for a "
                f"{own.__name__}"
            )
        try:
            module.set_submodule(name, made(layer, **parameters))
        except TypeError as error:
            raise DataError(f"layer {name!r} of form {form!r}: {error}") from error


def stored_ids(module: nn.Module) -> int:
    """Numbers that say which rows an id has; an exported file holds them beside the rows."""
    orders = [part.order for part in module.modules() if isinstance(part, HashedRows)]
    codes = [part.codes for part in module.modules() if isinstance(part, ProductTable)]
    return sum(ids.numel() for ids in (*orders, *codes) if ids is not None)
