"""How tables are put into fewer bits, whichever they get: scales, search, form."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.stages.lookup_forms import GRIDS, Coded, Form, encode
from harness.stages.lookups import Lookup
from harness.stages.row_codes import stored_bytes
from harness.stages.side_files import Empty

Bits = Literal[4, 8, 16]
WIDTHS: tuple[Bits, ...] = (4, 8, 16)


@dataclass(frozen=True, slots=True)
class Coding:
    """``scales`` are fp16 at 4 bits, else fp32, if ``auto``; 16 bits have none."""

    scales: Literal["auto", "fp16", "fp32"]
    search: bool

    def scales_at(self, bits: Bits) -> Literal["fp16", "fp32"]:
        """The type of scales and offsets."""
        if self.scales == "auto":
            return "fp16" if bits == 4 else "fp32"
        return self.scales

    def half_range(self, bits: Bits) -> bool:
        """Whether values have to be in the range of half precision."""
        return bits == 16 or self.scales_at(bits) == "fp16"

    def bytes(self, lookup: Lookup, bits: Bits, form: Form) -> int:
        """What a table should take; by its size alone."""
        size = 2 if self.scales_at(bits) == "fp16" else 4
        grid = GRIDS[_form(bits, form)]
        return stored_bytes(lookup.rows, lookup.dim, bits=bits, scale_bytes=size, grid=grid)

    def encode(
        self, table: np.ndarray, bits: Bits, form: Form, *, where: str, empty: Empty = np.empty
    ) -> Coded:
        """A table (rows, dim) in codes, in arrays that ``empty`` makes; raises as ``encode``."""
        return encode(
            table,
            _form(bits, form),
            bits=bits,
            scales=self.scales_at(bits),
            search=self.search,
            where=where,
            empty=empty,
        )


def _form(bits: Bits, form: Form) -> Form:
    return "half" if bits == 16 else form
