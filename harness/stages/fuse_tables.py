"""torch -> torch, exact: all tables of one dimension become one, so that one look-up does it."""

from dataclasses import replace

from harness.artifact import Artifact
from harness.stages.base import Context, Outcome, stage
from harness.stages.rewriting import require_less, require_unset, rewrite

PARAMETER = "fused"


@stage(accepts="torch", produces="torch", technique="closed_like")
def fuse_tables(artifact: Artifact, context: Context) -> Outcome:
    """The same rows in one table, each field's ids starting at its offset: one look-up finds the
    vectors of the user and the context, one those of the candidates.

    Raises ``UnsupportedError`` for a model without such a form, and ``EffectError`` when it has it
    already, when there are no two tables to fuse or when scores change.
    """
    require_unset(
        artifact,
        PARAMETER,
        stage="fuse_tables",
        why="its fields aren't looked up together",
    )
    outcome = rewrite(artifact, context, stage="fuse_tables", changes={PARAMETER: True})
    require_less(
        outcome,
        "lookups",
        stage="fuse_tables",
        why="neither the request nor its candidates have two tables to fuse",
    )
    note = "an id beyond its field's rows finds the next field's and is no longer refused"
    return replace(outcome, notes=(*outcome.notes, note))
