"""All items of a catalogue: their vectors, and the best of them for a request.

Scores are worked out in chunks of the catalogue, each reduced to its best items at once, so that
memory grows with the batch and the chunk, never with users x items.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from harness.compressed import ProductTable
from harness.errors import UnsupportedError
from harness.schema import UNKNOWN, FeatureSchema

MASKED = -1e4
"""Score of what may not be recommended: far below any other, and still a number in fp16."""
CHUNK = 65_536
LEAST = 11
"""Fewest places of a list: the one after the tenth shows whether the tenth is tied."""


class Catalogue(nn.Module):
    """One table of item vectors, for looking up and for scoring; row 0 is no item."""

    def __init__(self, schema: FeatureSchema, *, dim: int, top: int, chunk: int = CHUNK) -> None:
        super().__init__()
        items = schema.field(schema.item).cardinality
        if top < LEAST:
            raise UnsupportedError(
                f"top {top}: a list has at least {LEAST} places, one more than the metrics look at"
            )
        if items - 1 < top:
            raise UnsupportedError(f"top {top}: the catalogue has {items - 1} items")
        vectors = nn.Embedding(items, dim, padding_idx=UNKNOWN)
        nn.init.normal_(vectors.weight, std=dim**-0.5)
        with torch.no_grad():
            vectors.weight[UNKNOWN].zero_()
        self.vectors: nn.Embedding | ProductTable = vectors
        self.top, self.chunk, self.repeats = top, chunk, schema.repeats

    @property
    def table(self) -> torch.Tensor:
        """The vectors of all items, (items, dim); put together where they are stored as codes."""
        if isinstance(self.vectors, ProductTable):
            return self.vectors.table()
        return self.vectors.weight

    def forward(
        self, queries: torch.Tensor, seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (requests, top) and ids (requests, top) of the best items, best first, ties by id.

        ``queries`` are (requests, dim); ``seen`` (requests, any) ids that aren't recommended. Where
        fewer than ``top`` are left the rest has id 0 and the score ``MASKED``.
        """
        hidden = _hidden(queries, seen)
        parts, score = [], self._scorer(queries)
        items = self.vectors.num_embeddings
        for first in range(0, items, self.chunk):
            last = min(first + self.chunk, items)
            scores = mask(score(first, last), hidden, first=first)
            found, places = best(scores, min(self.top, last - first))
            parts.append((found, places + first))
        if len(parts) == 1:
            return named(*parts[0])
        scores, ids = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
        found, places = best(scores, self.top)
        return named(found, ids.gather(1, places))

    def _scorer(self, queries: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
        """A function from the first item and the one after the last to their scores (requests,
        last - first).
        """
        if isinstance(coded := self.vectors, ProductTable):
            products = coded.products(queries)
            return lambda first, last: coded.scores(products, first, last)
        table = self.table
        # Not queries @ part.T: exported, that is a second table, transposed.
        return lambda first, last: F.linear(
            queries, table if last - first == len(table) else table[first:last]
        )


class FromCatalogue(nn.Module):
    """What models that look for items of a catalogue share; ``states`` gives what they look for."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self.catalogue = catalogue

    @property
    def top(self) -> int:
        """Places of a list."""
        return self.catalogue.top


def recommend(
    scores: torch.Tensor, seen: torch.Tensor | None, *, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best items from scores of all, (requests, items); see ``Catalogue.forward``."""
    return named(*best(mask(scores, _hidden(scores, seen), first=0), top))


def _hidden(rows: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Ids that aren't recommended: what was seen, and row 0, (requests, seen + 1)."""
    if seen is None:
        return torch.full((rows.shape[0], 1), UNKNOWN, dtype=torch.int64, device=rows.device)
    return F.pad(seen, (1, 0), value=UNKNOWN)


def mask(scores: torch.Tensor, hidden: torch.Tensor, *, first: int) -> torch.Tensor:
    """Scores of items ``first`` and on (requests, chunk) with the hidden ones far below."""
    if first == 0:
        inside = torch.where(hidden < scores.shape[1], hidden, UNKNOWN)
        return scores.scatter(1, inside, MASKED)
    size = scores.shape[1]
    local = hidden - first
    local = torch.where((local >= 0) & (local < size), local, size)
    return F.pad(scores, (0, 1)).scatter(1, local, MASKED)[:, :size]


def best(scores: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``top`` highest scores of each row and where they stand; of equal ones the first.

    ONNX says so of its TopK; torch doesn't, so rows with ties are sorted here. That holds inside a
    list too: of a chunk's list the first places alone may go on. Not in a graph, which can't ask
    whether there are any: engines put equal scores of a list in order themselves.
    """
    if as_graph():
        found, places = scores.topk(top, dim=1)
        return found, places
    found, places = scores.topk(min(top + 1, scores.shape[1]), dim=1)
    tied = (found[:, :-1] == found[:, 1:]).any(dim=1)  # (rows,)
    if bool(tied.any()):
        places[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[
            :, : places.shape[1]
        ]
    return found[:, :top], places[:, :top]


def as_graph() -> bool:
    """Whether what is worked out becomes a graph (exported, compiled, or recorded on a GPU), which
    takes no branch that depends on numbers.
    """
    if torch.compiler.is_exporting() or torch.compiler.is_compiling():
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def named(scores: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The list with id 0 in the places that nothing is left for."""
    return scores, torch.where(scores > MASKED / 2, items, UNKNOWN)
