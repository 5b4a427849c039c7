"""The teacher's scores of the training rows: worked out once per teacher and data, kept in the
store by row id, shared by all recipes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.artifact import Artifact
from harness.errors import DataError
from harness.modules import load_module
from harness.objectives import predict
from harness.stages.base import Context
from harness.store import file_hash, key_of, package_versions, source_hash
from harness.tables import Split

_CHUNK = 1 << 17


@dataclass(frozen=True)
class TeacherScores:
    """Logits by row id; both arrays are (rows,), ``row_ids`` ascending."""

    row_ids: np.ndarray
    logits: np.ndarray

    def of(self, row_ids: np.ndarray) -> np.ndarray:
        """Logits (rows,) float32 of some rows, whatever their order; raises ``DataError`` for a
        row that the teacher hasn't scored.
        """
        at = np.searchsorted(self.row_ids, row_ids)  # (rows,)
        at = np.minimum(at, len(self.row_ids) - 1)
        missing = self.row_ids[at] != row_ids
        if missing.any():
            raise DataError(
                f"row id {int(row_ids[missing][0])} has no teacher score ({int(missing.sum())} "
                "rows haven't); score the data that the student is trained on"
            )
        return np.asarray(self.logits[at])


def teacher_scores(teacher: Artifact, context: Context) -> TeacherScores:
    """The teacher's logits of all training rows, from ``context.store`` or computed now in eval
    mode; memory-mapped. Raises ``DataError`` when a score isn't finite.
    """
    key = key_of(
        teacher=teacher.key,
        weights=file_hash(teacher.file),
        data=context.data.hash,
        source=source_hash(Path(__file__)),
        torch=package_versions()["torch"],
    )
    folder = context.store.make("teacher", key, _scorer(teacher, context))
    row_ids, logits = (
        np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("row_id", "logit")
    )
    return TeacherScores(row_ids, logits)


def _scorer(teacher: Artifact, context: Context) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        train = context.data.splits["train"]
        logits = _score(teacher, context, train)  # (rows,)
        if not np.isfinite(logits).all():
            row = int(np.flatnonzero(~np.isfinite(logits))[0])
            raise DataError(
                f"teacher {teacher.model.name}: the score of row id {int(train.row_id[row])} is "
                f"{logits[row]}; look at the teacher's weights"
            )
        order = np.argsort(train.row_id, kind="stable")
        np.save(folder / "row_id.npy", np.asarray(train.row_id)[order], allow_pickle=False)
        np.save(folder / "logit.npy", logits[order], allow_pickle=False)

    return build


def _score(teacher: Artifact, context: Context, split: Split) -> np.ndarray:
    torch.set_num_threads(context.threads)
    module = load_module(teacher)
    logits = np.empty(split.rows, dtype=np.float32)
    for first in range(0, split.rows, _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, split.rows))
        logits[rows] = predict(module, context.data, split, teacher.inputs, rows=rows)
        context.progress("teacher scores", (int(rows[-1]) + 1) / split.rows)
    return logits
