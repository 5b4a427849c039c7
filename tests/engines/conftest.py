"""What the tests of engines share."""

from collections.abc import Callable

import numpy as np
import pytest

from harness.artifact import Artifact
from harness.tables import Prepared, feeds

Batch = Callable[[int, int], dict[str, np.ndarray]]
Batches = Callable[[Artifact], Batch]


@pytest.fixture
def batches(tiny: Prepared) -> Batches:
    """``batches(artifact)(requests, candidates)``: its inputs, from the first rows of the split."""

    def of(artifact: Artifact) -> Batch:
        def make(requests: int, candidates: int) -> dict[str, np.ndarray]:
            rows = np.arange(requests * candidates).reshape(requests, candidates)
            return feeds(tiny.schema, tiny.splits["test"], rows, artifact.inputs)

        return make

    return of
