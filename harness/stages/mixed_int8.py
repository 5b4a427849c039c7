"""A graph whose products are each in fp32, dynamic int8 or static int8, as a plan says."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import EffectError
from harness.stages.graphs import Feeds, choose, weighted_nodes
from harness.stages.qdq import Scales, insert_scales, weight_limit
from harness.stages.quantize_dynamic import quantise_weights
from harness.stages.quantize_static import OPS, layer_scales, measure_ranges

if TYPE_CHECKING:
    import onnx

Kind = Literal["dynamic", "static"]
KINDS: tuple[Kind, ...] = ("dynamic", "static")
Plan = Mapping[str, Kind]
"""The kind of int8 of products, by name; those that aren't in it stay in fp32."""


@dataclass(frozen=True)
class Products:
    """The products of a graph that may be quantised, those that are ``kept`` in fp32, and the
    scales of those that can be static; ``refused`` says why the others can't.
    """

    model: "onnx.ModelProto"
    names: tuple[str, ...]
    kept: tuple[str, ...]
    scales: Mapping[str, Scales]
    refused: Mapping[str, str]
    per_channel: bool
    reduce_range: bool


def find_products(
    model: "onnx.ModelProto",
    batches: Iterator[Feeds],
    *,
    kinds: Collection[Kind],
    per_channel: bool,
    reduce_range: bool,
    keep_last: bool,
    exclude: tuple[str, ...],
) -> Products:
    """What of a graph may be quantised; ``batches`` calibrate the static kind, by the lowest and
    highest value. Raises ``EffectError`` as ``choose`` and ``measure_ranges`` do.
    """
    chosen, kept = choose(model, ops=OPS, exclude=exclude, keep_last=keep_last)
    scales, refused = dict[str, Scales](), dict[str, str]()
    layers = [node for node in weighted_nodes(model, OPS) if node.name in chosen]
    if "static" in kinds:
        inputs = [node.input[0] for node in layers]
        ranges = measure_ranges(model, inputs, batches, method="minmax", percentile=100.0)
        limit = weight_limit(reduce_range)
        for node in layers:
            try:
                scales |= layer_scales(model, [node], ranges, limit=limit, per_channel=per_channel)
            except EffectError as error:  # the other kind may still do
                refused[node.name] = str(error)
    return Products(model, tuple(chosen), tuple(kept), scales, refused, per_channel, reduce_range)


def mixed(products: Products, plan: Plan) -> "onnx.ModelProto":
    """A copy of the graph with the plan's products quantised, the rest as it was."""
    model = products.model
    dynamic = [name for name in products.names if plan.get(name) == "dynamic"]
    static = {name: products.scales[name] for name in plan if plan[name] == "static"}
    if dynamic:
        # First: onnxruntime's tool warns of a graph that has scales.
        model = quantise_weights(
            model, dynamic, per_channel=products.per_channel, reduce_range=products.reduce_range
        )
    made = insert_scales(model, static)
    del made.graph.value_info[:]  # types of inner tensors, some of which are gone
    return made
