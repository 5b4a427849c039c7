"""The forms that a look-up of narrow rows can take in an ONNX graph, behind one interface.

``plain`` is made of standard operators, which every engine has; ``native`` is our own operator, for
onnxruntime; ``block`` is onnxruntime's GatherBlockQuantized with one block a row; ``half`` is a
table in half precision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from harness.errors import DataError
from harness.native import DOMAIN
from harness.stages.lookups import CODES, FOUR_BIT
from harness.stages.row_codes import RELEASED_EVERY, Grid, RowCodes, joined, quantise_rows, spans
from harness.stages.side_files import Empty, release

if TYPE_CHECKING:
    import onnx

Form = Literal["plain", "native", "block", "half"]
GRIDS: Mapping[Form, Grid] = {
    "plain": "offset",
    "native": "offset",
    "block": "zero_point",
    "half": "offset",
}
MICROSOFT = "com.microsoft"


class Coded(Protocol):
    """A table in fewer bytes."""

    @property
    def error(self) -> np.ndarray:
        """Length of the error / length of the row, (rows,)."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of all that is stored."""
        ...

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The rows ``ids`` (...), (..., dim) float32."""
        ...


@dataclass(frozen=True)
class HalfRows:
    """A table in half precision."""

    values: np.ndarray  # (rows, dim) float16
    error: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes of the table."""
        return self.values.nbytes

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The rows ``ids`` (...), (..., dim) float32."""
        return np.asarray(self.values[ids].astype(np.float32))


@dataclass(frozen=True)
class Written:
    """A table as parts of a graph: constants by name, and the nodes of one look-up."""

    constants: Mapping[str, np.ndarray]
    nodes: Callable[[str, str], list["onnx.NodeProto"]]
    """From the names of the ids and of the result."""


def halve(table: np.ndarray, *, where: str, empty: Empty = np.empty) -> HalfRows:
    """A table (rows, dim) in half precision, in arrays that ``empty`` makes. Raises ``DataError``
    naming ``where`` and the row for a value that half precision can't hold.
    """
    values = empty(table.shape, np.float16)
    error = empty((len(table),), np.float32)
    for at, (first, end) in enumerate(spans(*table.shape)):
        part = np.asarray(table[first:end], dtype=np.float64)
        with np.errstate(over="ignore"):
            values[first:end] = part
        if not np.isfinite(values[first:end]).all():
            row = first + int(np.argmin(np.isfinite(values[first:end]).all(axis=1)))
            raise DataError(f"{where}, row {row}: a value is beyond half precision; use 8 bits")
        length = np.linalg.norm(part, axis=1)
        gap = np.linalg.norm(values[first:end] - part, axis=1)
        error[first:end] = gap / np.where(length > 0, length, 1.0)
        if at % RELEASED_EVERY == 0:
            release(table, values, error)
    return HalfRows(values, error)


def encode(
    table: np.ndarray,
    form: Form,
    *,
    bits: Literal[4, 8, 16],
    scales: Literal["fp16", "fp32"],
    search: bool,
    where: str,
    empty: Empty = np.empty,
) -> Coded:
    """A table (rows, dim) as ``form`` stores it, in arrays that ``empty`` makes; raises as
    ``quantise_rows`` and ``halve`` do.
    """
    if bits == 16:
        return halve(table, where=where, empty=empty)
    coded = quantise_rows(
        table,
        bits=bits,
        scales=scales,
        grid=GRIDS[form],
        search=search,
        where=where,
        empty=empty,
    )
    return in_form(coded, form, empty=empty)


def in_form(coded: Coded, form: Form, *, empty: Empty = np.empty) -> Coded:
    """A table that was coded for another form of the same grid, as ``form`` stores it."""
    return joined(coded, empty=empty) if form == "native" and isinstance(coded, RowCodes) else coded


def written(name: str, coded: Coded) -> Written:
    """A coded table called ``name`` as parts of a graph."""
    if isinstance(coded, HalfRows):
        return _half(name, coded)
    assert isinstance(coded, RowCodes)
    if coded.rows is not None:
        return _native(name, coded, coded.rows)
    return _block(name, coded) if coded.grid == "zero_point" else _plain(name, coded)


def _half(name: str, coded: HalfRows) -> Written:
    table = f"{name}.half"

    def nodes(ids: str, result: str) -> list["onnx.NodeProto"]:
        return [
            _node("Gather", [table, ids], f"{result}.half"),
            _node("Cast", [f"{result}.half"], result, to=1),
        ]

    return Written({table: coded.values}, nodes)


def _native(name: str, coded: RowCodes, rows: np.ndarray) -> Written:
    table, size = _codes_name(name, coded), coded.scale.itemsize
    told = {"bits": coded.bits, "dim": coded.dim, "scale_bytes": size}

    def nodes(ids: str, result: str) -> list["onnx.NodeProto"]:
        return [_node("Lookup", [table, ids], result, domain=DOMAIN, **told)]

    return Written({table: rows}, nodes)


def _codes_name(name: str, coded: RowCodes) -> str:
    return name + (FOUR_BIT if coded.bits == 4 else CODES)


def _block(name: str, coded: RowCodes) -> Written:
    parts = {
        _codes_name(name, coded): coded.codes,
        f"{name}.scale": coded.scale,
        f"{name}.zero": coded.base,
    }
    codes, scale, zero = parts
    ends = _ends(name, coded)
    parts |= ends
    half = coded.scale.dtype == np.float16
    size = max(16, 1 << (coded.dim - 1).bit_length())  # the operator takes powers of two from 16

    def nodes(ids: str, result: str) -> list["onnx.NodeProto"]:
        whole = f"{result}.padded" if ends else result
        first = f"{result}.half" if half else whole
        look_up = _node(
            "GatherBlockQuantized",
            [codes, ids, scale, zero],
            first,
            domain=MICROSOFT,
            bits=coded.bits,
            block_size=size,
            gather_axis=0,
            quantize_axis=1,
        )
        made = [look_up, *([_node("Cast", [first], whole, to=1)] if half else [])]
        return [*made, *([_node("Slice", [whole, *ends], result)] if ends else [])]

    return Written(parts, nodes)


def _plain(name: str, coded: RowCodes) -> Written:
    parts = {
        _codes_name(name, coded): coded.codes,
        f"{name}.scale": coded.scale,
        f"{name}.offset": coded.base,
    }
    codes, scale, offset = parts
    if coded.bits == 4:
        parts |= {f"{name}.sixteen": np.array(16, np.float32)}
        parts |= {f"{name}.sixteenth": np.array(1 / 16, np.float32)}
    ends = _ends(name, coded)
    parts |= ends

    def nodes(ids: str, result: str) -> list["onnx.NodeProto"]:
        at = f"{result}.{{}}".format
        made = [
            _node("Gather", [codes, ids], at("codes")),
            _node("Cast", [at("codes")], at("numbers"), to=1),
        ]
        numbers = at("numbers")
        if coded.bits == 4:
            made += _halves(name, at, ends=list(ends))
            numbers = at("both")
        for part, constant in (("scale", scale), ("offset", offset)):
            made += _widened(constant, ids, at(part), half=coded.scale.dtype == np.float16)
        return [
            *made,
            _node("Mul", [numbers, at("scale")], at("scaled")),
            _node("Add", [at("scaled"), at("offset")], result),
        ]

    return Written(parts, nodes)


def _ends(name: str, coded: RowCodes) -> dict[str, np.ndarray]:
    """Where to cut the columns of four-bit codes, which are even in number: first, end and axis;
    empty where they are as many as the table's.
    """
    if coded.bits == 8 or coded.dim % 2 == 0:
        return {}
    ends = {"first": 0, "end": coded.dim, "axis": -1}
    return {f"{name}.{part}": np.array([at]) for part, at in ends.items()}


def _halves(name: str, at: Callable[[str], str], *, ends: Sequence[str]) -> list["onnx.NodeProto"]:
    """Both codes of each byte, in floats: OpenVINO has no whole numbers of eight bits to shift."""
    joined = at("all") if ends else at("both")
    nodes = [
        _node("Mul", [at("numbers"), f"{name}.sixteenth"], at("sixteenths")),
        _node("Floor", [at("sixteenths")], at("high")),
        _node("Mul", [at("high"), f"{name}.sixteen"], at("sixteens")),
        _node("Sub", [at("numbers"), at("sixteens")], at("low")),
        _node("Concat", [at("low"), at("high")], joined, axis=-1),
    ]
    if ends:
        nodes.append(_node("Slice", [joined, *ends], at("both")))
    return nodes


def _widened(constant: str, ids: str, result: str, *, half: bool) -> list["onnx.NodeProto"]:
    if not half:
        return [_node("Gather", [constant, ids], result)]
    narrow = f"{result}.half"
    return [
        _node("Gather", [constant, ids], narrow),
        _node("Cast", [narrow], result, to=1),
    ]


def _node(
    operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any
) -> "onnx.NodeProto":
    """A node named after its result."""
    from onnx import helper

    return helper.make_node(
        operator, list(inputs), [output], name=output, domain=domain or None, **attributes
    )
