"""Which form of look-up is quickest in onnxruntime on this machine, on ids of training rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.stages.graphs import ort_session
from harness.stages.lookup_forms import Coded, Written, written
from harness.stages.lookup_graphs import declare_domains
from harness.stages.pairing import ROUNDS, WARM, Call, paired_times

if TYPE_CHECKING:
    import onnx

FP32 = "fp32"

Table = np.ndarray | Coded
"""In fp32, or in fewer bytes."""


@dataclass(frozen=True)
class Compared:
    """``ratios`` are the median times of the forms as multiples of fp32's in the same round;
    ``seconds`` is the median time of fp32's look-ups.
    """

    ratios: Mapping[str, float]
    seconds: float

    @property
    def quickest(self) -> str:
        """The form of the smallest ratio; the first of equals."""
        return min(self.ratios, key=lambda form: self.ratios[form])

    def notes(self, *, ids: int, tables: int) -> tuple[str, ...]:
        """What was measured, in words."""
        told = ", ".join(f"{form} {ratio:.2f}x" for form, ratio in self.ratios.items())
        best = self.ratios[self.quickest]
        note = (
            f"{ids} ids of {tables} tables, onnxruntime on one thread: fp32 took "
            f"{self.seconds * 1e6:.1f} us, of its time {told}; {self.quickest} was kept"
        )
        slower = f"smaller but slower: look-ups take {best:.2f}x the time of fp32's Gather"
        return (note, slower) if best > 1 else (note,)


def compare(
    calls: Mapping[str, Call],
    *,
    batches: int,
    rounds: int = ROUNDS,
    warm: int = WARM,
    clock: Callable[[], float] = time.perf_counter,
) -> Compared:
    """Time the forms (``fp32`` among ``calls``) in turns; see ``paired_times``."""
    times = paired_times(calls, batches=batches, rounds=rounds, warm=warm, clock=clock)
    fp32 = times[FP32]
    ratios = {name: float(np.median(times[name] / fp32)) for name in calls if name != FP32}
    return Compared(ratios, float(np.median(fp32)))


def lookup_call(
    tables: Sequence[tuple[str, Table]], batches: Sequence[Sequence[np.ndarray]]
) -> Call:
    """A call that looks up ids in all tables, fp32 arrays or coded ones, in one graph. The tables
    are its inputs, so that none is copied; ``batches`` holds (n,) ids for each table.
    Raises what onnxruntime raises when it lacks the form.
    """
    parts, model = _graph(tables, batches[0])
    session = ort_session(model)
    bindings = [_bind(session, parts, ids) for ids in batches]
    return lambda at: session.run_with_iobinding(bindings[at])


def _bind(session: Any, parts: Mapping[str, np.ndarray], ids: Sequence[np.ndarray]) -> Any:
    binding = session.io_binding()
    own = {f"ids{at}": np.ascontiguousarray(array) for at, array in enumerate(ids)}
    for name, array in {**parts, **own}.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding


def _graph(
    tables: Sequence[tuple[str, Table]], ids: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], "onnx.ModelProto"]:
    """Look-ups of all tables; scalars and index constants stay constants."""
    from onnx import ValueInfoProto, helper, numpy_helper

    nodes, parts, fixed = [], dict[str, np.ndarray](), {}
    for at, (name, table) in enumerate(tables):
        form = _form(name, table)
        nodes += form.nodes(f"ids{at}", f"rows{at}")
        for part, array in form.constants.items():
            if np.ndim(array) == 2:
                parts[part] = np.ascontiguousarray(array)
            else:
                fixed[part] = numpy_helper.from_array(np.asarray(array), part)
    given = {**parts, **{f"ids{at}": array for at, array in enumerate(ids)}}
    inputs = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            array.shape if name in parts else [None],
        )
        for name, array in given.items()
    ]
    outputs = [ValueInfoProto(name=f"rows{at}") for at in range(len(tables))]
    graph = helper.make_graph(nodes, "lookups", inputs, outputs, list(fixed.values()))
    domains = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    declare_domains(model)
    return parts, model


def _form(name: str, table: Table) -> Written:
    from onnx import helper

    if not isinstance(table, np.ndarray):
        return written(name, table)
    return Written(
        {name: table}, lambda ids, result: [helper.make_node("Gather", [name, ids], [result])]
    )
