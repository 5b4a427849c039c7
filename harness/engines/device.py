"""CUDA devices as the GPU engines need them: driver asked first, ids checked on the host."""

from collections.abc import Mapping

import numpy as np

from harness.artifact import Artifact
from harness.cuda import DRIVER, find_device
from harness.engines.base import Probe
from harness.engines.probing import probe_code
from harness.errors import DataError, UnsupportedError
from harness.schema import read_schema


def driver_fault(library: str = DRIVER) -> Probe | None:
    """None when the CUDA driver answers and there is a device that is new enough."""
    try:
        find_device(library)
    except UnsupportedError as error:
        return Probe(probe_code(error.code), str(error))
    return None


def require_device() -> None:
    """Raise ``UnsupportedError`` with the probe's code when no CUDA device answers."""
    find_device()


def missing_package(wanted: str, *, advice: str) -> Probe:
    """The ``no_package`` probe, which also says when there is no device to install it for."""
    fault = driver_fault()
    return Probe("no_package", f"{wanted}; {fault.sentence if fault else advice}")


def row_counts(artifact: Artifact) -> dict[str, np.ndarray]:
    """Rows of the table of each packed feature, by input name: (fields,) each, ids only."""
    schema, _ = read_schema(artifact.folder)
    known = {field.name: field.cardinality for field in schema.fields}
    return {
        spec.name: np.array([known[name] for name in spec.fields], dtype=np.int64)
        for spec in artifact.inputs
        if spec.dtype.startswith("int") and spec.fields
    }


def check_ids(counts: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]) -> None:
    """Raise ``DataError`` for an id outside its table: a CUDA gather reads past the end unasked."""
    for name, rows in counts.items():
        ids = feeds[name]
        if ids.size and (ids.min() < 0 or bool((ids >= rows).any())):
            raise DataError(
                f"input {name!r}: ids from {ids.min()} to {ids.max()}, "
                f"expected 0 to below {rows.tolist()}"
            )
