"""CUDA devices as the GPU engines need them: driver asked first, ids checked on the host.

The driver is asked through ctypes before any library is imported: several of them crash, or run on
the CPU without a word, where there is no driver.
"""

import ctypes
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from harness.artifact import Artifact
from harness.engines.base import Probe
from harness.errors import DataError, UnsupportedError
from harness.schema import read_schema

_NO_DEVICE = 100
_MISMATCHES = {35: "driver_too_old", 803: "driver_too_old", 804: "driver_too_old"}
MINIMUM_CAPABILITY = (7, 5)
"""Turing: the oldest that CUDA 13 and TensorRT 10 build for."""


def driver_fault(library: str = "libcuda.so.1") -> Probe | None:
    """None when the CUDA driver answers and there is a device that is new enough."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return Probe("no_driver", f"no CUDA device: {library}, NVIDIA's driver, isn't found")
    status = cuda.cuInit(0)
    if status == _NO_DEVICE:
        return Probe("no_device", "no CUDA device: the driver is there and finds none")
    if status in _MISMATCHES:
        return Probe(
            "driver_too_old", f"no usable CUDA device: cuInit gave {status}; update the driver"
        )
    if status != 0:
        return Probe("no_driver", f"no CUDA device: cuInit gave error {status}")
    return _device_fault(cuda)


def _device_fault(cuda: Any) -> Probe | None:
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return Probe("no_device", "no CUDA device: the driver is there and finds none")
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # COMPUTE_CAPABILITY_MAJOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # COMPUTE_CAPABILITY_MINOR
    found = (major.value, minor.value)
    if found < MINIMUM_CAPABILITY:
        wanted = ".".join(map(str, MINIMUM_CAPABILITY))
        told = ".".join(map(str, found))
        return Probe("capability_too_low", f"the GPU has compute capability {told}, needs {wanted}")
    return None


def require_device() -> None:
    """Raise ``UnsupportedError`` with the probe's code when no CUDA device answers."""
    fault = driver_fault()
    if fault:
        raise UnsupportedError(fault.sentence, code=fault.code)


def missing_package(wanted: str, *, advice: str) -> Probe:
    """The ``no_package`` probe, which also says when there is no device to install it for."""
    fault = driver_fault()
    return Probe("no_package", f"{wanted}; {fault.sentence if fault else advice}")


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, else None; imports nothing."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


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
