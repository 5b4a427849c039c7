"""torch -> torch, exact: what all candidates of a request share is worked out once per request."""

from dataclasses import replace

from harness.artifact import Artifact
from harness.stages.base import Context, Outcome, stage
from harness.stages.rewriting import require_less, require_unset, rewrite

PARAMETER = "shared"


@stage(accepts="torch", produces="torch", technique="closed_like")
def share_user(artifact: Artifact, context: Context) -> Outcome:
    """The same weights, with the first layer split into one Linear over what the user and the
    context give, worked out once per request, and one over what each candidate adds.

    Of DLRM the dots among vectors that candidates share are worked out once too. Raises
    ``UnsupportedError`` for a model without such a form, ``EffectError`` when it has it already or
    when scores change.
    """
    require_unset(
        artifact,
        PARAMETER,
        stage="share_user",
        why="no layer of it is known to read what candidates share apart from what they don't",
    )
    outcome = rewrite(artifact, context, stage="share_user", changes={PARAMETER: True})
    require_less(outcome, "macs", stage="share_user", why="candidates of a request share nothing")
    return replace(outcome, notes=(*outcome.notes, _share(outcome.artifact)))


def _share(written: Artifact) -> str:
    widths = written.widths or {}
    once, each = (
        widths[name][1] if name in widths else 0
        for name in ("first.request.linear", "first.own.linear")
    )
    return f"{once} of the first layer's {once + each} columns are read once per request"
