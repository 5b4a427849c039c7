"""A catalogue scanned by our own operator: items in codes side by side as it reads them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.native import DOMAIN
from harness.schema import UNKNOWN
from harness.stages.catalogue_graph import PREFIX, Scoring
from harness.stages.catalogue_scan import replace_nodes, stored
from harness.stages.lookup_graphs import declare_domains
from harness.stages.scan_nodes import Writer

if TYPE_CHECKING:
    import onnx

GROUP = 16
"""Items whose codes lie side by side."""
SEEN = "seen"
"""The graph's input of items that aren't recommended, where there is one."""
Bits = Literal[4, 8]


def pack_items(vectors: np.ndarray, bits: Bits) -> tuple[np.ndarray, np.ndarray]:
    """Codes (groups, bytes) uint8 of vectors (items, dim) and the items' scales (groups x 16,)
    float32: a number is (code - 8 or 128) x scale, to the nearest of 15 or 255 steps.

    Of each group of 16 items four numbers of every item lie side by side, then the next four; in 4
    bits the upper halves hold the next four.
    """
    items, dim = vectors.shape
    limit, each = (127, 4) if bits == 8 else (7, 8)
    groups, width = -(-items // GROUP), -(-dim // each) * each
    scales = np.ones(groups * GROUP, np.float32)
    largest = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32)
    scales[:items] = np.where(largest > 0, largest / np.float32(limit), 1)
    codes = np.full((groups * GROUP, width), limit + 1, np.uint8)
    steps = np.rint(vectors / scales[:items, None]).clip(-limit, limit)
    codes[:items, :dim] = (steps + (limit + 1)).astype(np.uint8)
    fours = codes.reshape(groups, GROUP, width // each, each // 4, 4)
    fours = fours.transpose(0, 2, 3, 1, 4)  # (groups, steps, 1 or 2, items, 4)
    packed = fours[:, :, 0] if bits == 8 else fours[:, :, 0] | fours[:, :, 1] << 4
    return np.ascontiguousarray(packed.reshape(groups, -1)), scales


def scan_node(
    inputs: Iterable[str],
    outputs: Iterable[str],
    *,
    bits: int,
    candidates: int,
    top: int,
    padding: int,
) -> "onnx.NodeProto":
    """The operator: queries, codes, scales, vectors[, hidden items[, bias]] -> scores and items."""
    from onnx import helper

    return helper.make_node(
        *("Scan", list(inputs), list(outputs)),
        name=f"{PREFIX}.native",
        domain=DOMAIN,
        bits=bits,
        candidates=candidates,
        top=top,
        padding=padding,
    )


def insert_native_scan(
    model: "onnx.ModelProto", found: Scoring, *, candidates: int, bits: Bits
) -> None:
    """Put the operator in the place of ``found``, in the model itself."""
    put, table = Writer(model.graph), found.table
    codes, scales = pack_items(table, bits)
    inputs = [found.queries, put.constant("codes", codes), put.constant("scales", scales)]
    inputs.append(stored(put, "table", table))
    inputs.append(SEEN if any(given.name == SEEN for given in model.graph.input) else "")
    if found.bias is not None:
        bias = np.pad(found.bias, (0, len(scales) - len(found.bias)))
        inputs.append(put.constant("biases", bias))
    items = found.last.output[1] if found.named is None else found.named.output[0]
    outputs = [found.last.output[0], items]
    made = scan_node(
        *(inputs, outputs), bits=bits, candidates=candidates, top=found.top, padding=UNKNOWN
    )
    old = {node.output[0] for node in (found.last, found.named) if node is not None}
    replace_nodes(model.graph, old, [made])
    declare_domains(model)
