"""The child that makes and scores: ``python -m harness.making_worker`` answers both requests."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness import registry
from harness.artifact import read_artifact
from harness.objectives import Training
from harness.recipe import StageSpec
from harness.stages.base import Context
from harness.store import Store
from harness.suites.apart_worker import Tell, serve
from harness.suites.scoring_worker import score_variant
from harness.suites.worker import catalog_engine
from harness.tables import read_prepared
from harness.variants import build_stage


def make_stage(
    *,
    stage: str,
    parameters: Mapping[str, Any],
    artifact: str,
    baseline: str,
    data: str,
    training: Mapping[str, Any],
    store: str,
    seed: int,
    threads: int,
    out: str,
    tell: Tell,
) -> None:
    """Run a stage on the artifact in a folder; the new one is written into ``out``. Raises what the
    stage raises.
    """

    def progress(label: str, share: float) -> None:
        tell(f"{stage}: {label}", share)

    context = Context(
        Path(out),
        read_prepared(Path(data)),
        read_artifact(Path(baseline)),
        Training(**training),
        Store(Path(store)),
        seed,
        threads,
        progress,
    )
    spec = StageSpec(stage, registry.bind("stages", stage, parameters))
    tell(stage, 0.0)
    build_stage(read_artifact(Path(artifact)), spec, context)


if __name__ == "__main__":
    serve({"making": make_stage, "scoring": partial(score_variant, find_engine=catalog_engine)})
