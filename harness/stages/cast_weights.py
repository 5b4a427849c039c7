"""torch -> torch with every weight in fp16 or bf16, as ``module.half()`` makes it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.artifact import Artifact, Effect
from harness.errors import EffectError, UnsupportedError
from harness.halved import HALVES, halve
from harness.modules import load_module, save_module
from harness.params import Count, Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.graphs import Feeds, draw_rows, row_batches
from harness.stages.saturation import relative_gap

if TYPE_CHECKING:
    from torch import nn


@stage(accepts="torch", produces="torch", technique="closed_like")
def cast_weights(
    artifact: Artifact,
    context: Context,
    *,
    to: Literal["fp16", "bf16"] = "fp16",
    check_rows: Count = 256,
    tolerance: Positive = 0.05,
) -> Outcome:
    """Cast all weights, and with them what every layer works in; ids stay whole numbers, numbers
    are cast after they were normalised in fp32, and scores are given back in fp32. It is the last
    stage: half weights aren't trained, cut or exported (of an ONNX graph: ``convert_fp16``).

    Scores of ``check_rows`` training rows, and of empty, one-item and unknown pasts, are compared
    on the CPU in true half precision: not finite ones, and ones further from fp32 than
    ``tolerance`` (root mean square, as a share of the scores' spread), raise ``EffectError``.
    Raises ``UnsupportedError`` for weights that are half already.
    """
    if artifact.precision in HALVES:
        raise UnsupportedError(
            f"cast_weights: the weights are {artifact.precision} already; leave the stage out"
        )
    exact, module = load_module(artifact), load_module(artifact)
    context.progress(f"casting weights to {to}", 0.1)
    halve(module, to)
    _check_weights(module, to)
    context.progress(f"checking scores of {check_rows} rows", 0.4)
    drift = _drift(exact, module, _batches(artifact, context, check_rows), to=to)
    if not drift <= tolerance:
        raise EffectError(
            f"cast_weights: scores in {to} are {drift:.2%} of their spread away from fp32, "
            f"tolerance {tolerance:.2%}"
        )
    made = save_module(module, replace(artifact, precision=to), context.folder)
    effects = (
        Effect(f"{to}_parameters", 0, made.parameters),
        Effect("model_bytes", artifact.bytes, made.bytes, unit="bytes"),
        Effect("drift", 0.0, drift, unit="share of the scores' spread"),
    )
    kind = HALVES[to]
    return Outcome(
        made,
        effects,
        (
            f"all weights in {to}, as module.to(torch.{kind}) makes them: every layer works in it, "
            "softmax, norms and sums too; not torch's autocast (AMP), not an ONNX conversion",
        ),
    )


def _check_weights(module: "nn.Module", to: str) -> None:
    """Raise ``EffectError`` naming weights that are beyond the range of the type."""
    import torch

    bad = [name for name, p in module.state_dict().items() if not torch.isfinite(p).all()]
    if bad:
        raise EffectError(
            f"cast_weights: weights beyond the range of {to}: {', '.join(bad[:5])}{_instead(to)}"
        )


def _batches(artifact: Artifact, context: Context, rows: int) -> list[Feeds]:
    """Training rows, a row with id and number 0 everywhere, and for next items the first rows with
    an empty past and with one item.
    """
    split = context.data.splits["train"]
    drawn = draw_rows(split, count=rows, seed=context.seed)
    batches = list(row_batches(context.data, split, drawn, artifact.inputs))
    return [*batches, *_edges(batches[0])]


def _edges(batch: Feeds) -> Iterator[Feeds]:
    yield {name: np.zeros_like(array[:1]) for name, array in batch.items()}
    if "history" in batch:
        empty = np.zeros_like(batch["history"])
        one = empty.copy()
        one[:, -1] = batch["history"].max(axis=1)
        yield batch | {"history": empty}
        yield batch | {"history": one}


def _drift(exact: "nn.Module", half: "nn.Module", batches: list[Feeds], *, to: str) -> float:
    """How far the scores of both are apart; raises ``EffectError`` for scores that aren't finite,
    with the number of rows, and for a model that doesn't run in the type.
    """
    try:
        found = [_scores(half, batch) for batch in batches]
    except (RuntimeError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise EffectError(
            f"cast_weights: the model doesn't run in {to} ({first}){_instead(to)}"
        ) from error
    bad = sum(int((~np.isfinite(scores)).any(axis=1).sum()) for scores in found)
    if bad:
        raise EffectError(
            f"cast_weights: scores of {bad} of {sum(map(len, found))} rows aren't finite in {to}; "
            f"a mask such as -1e9 is -inf there{_instead(to)}"
        )
    right = [_scores(exact, batch) for batch in batches]
    one, other = (np.concatenate([scores.ravel() for scores in all_]) for all_ in (found, right))
    return relative_gap(one.astype(np.float64), other.astype(np.float64))


def _scores(module: "nn.Module", batch: Feeds) -> np.ndarray:
    """Scores (rows, any) of a batch: logits, or those of lists, place by place."""
    import torch

    with torch.inference_mode():
        given = {name: torch.from_numpy(np.array(array)) for name, array in batch.items()}
        outputs = module(**given)
    scores: np.ndarray = (outputs[0] if isinstance(outputs, tuple) else outputs).numpy()
    return scores.reshape(len(next(iter(batch.values()))), -1)


def _instead(to: str) -> str:
    other = "cast to bf16, or " if to == "fp16" else ""
    return f": {other}export and use convert_fp16, which keeps such parts in fp32"
