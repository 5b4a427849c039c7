"""The CUDA driver and its first device, asked through ctypes before any library is imported.

Several libraries crash, or run on the CPU without a word, where there is no driver; what is built
for a card has to name it.
"""

import ctypes
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.errors import UnsupportedError
from harness.native import DOMAIN, uses_operators

DRIVER = "libcuda.so.1"
MINIMUM_CAPABILITY = (7, 5)
"""Turing: the oldest that CUDA 13 and TensorRT 10 build for."""
_NO_DEVICE = 100
_TOO_OLD = (35, 803, 804)
"""CUDA_ERROR_INSUFFICIENT_DRIVER, SYSTEM_DRIVER_MISMATCH, COMPAT_NOT_SUPPORTED_ON_DEVICE."""
_OUT_OF_MEMORY = 2
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device: its card's name, compute capability, and the CUDA version of its driver, as
    the driver counts it (13000 is 13.0).
    """

    name: str
    capability: tuple[int, int]
    driver: int


def find_device(library: str = DRIVER) -> Device:
    """The first CUDA device; raises ``UnsupportedError`` with a probe's code (no_driver, no_device,
    driver_too_old, capability_too_low, out_of_memory) when none can be used.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise UnsupportedError(
            f"no CUDA device: {library}, NVIDIA's driver, isn't found", code="no_driver"
        ) from error
    _check(int(cuda.cuInit(0)))
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        _check(_NO_DEVICE)
    device = _first(cuda)
    if device.capability < MINIMUM_CAPABILITY:
        raise UnsupportedError(
            f"the GPU has compute capability {_dotted(device.capability)}, needs "
            f"{_dotted(MINIMUM_CAPABILITY)}",
            code="capability_too_low",
        )
    return device


def _check(status: int) -> None:
    """Raise ``UnsupportedError`` for what ``cuInit`` gave, unless that is success."""
    if status == 0:
        return
    sentence, code = f"no CUDA device: cuInit gave error {status}", "no_driver"
    if status == _NO_DEVICE:
        sentence, code = "no CUDA device: the driver is there and finds none", "no_device"
    elif status in _TOO_OLD:
        sentence = f"no usable CUDA device: cuInit gave {status}; update the driver"
        code = "driver_too_old"
    elif status == _OUT_OF_MEMORY:
        sentence = "no usable CUDA device: the driver has no memory left; end what fills the card"
        code = "out_of_memory"
    raise UnsupportedError(sentence, code=code)


def _first(cuda: Any) -> Device:
    device, major, minor, driver = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # COMPUTE_CAPABILITY_MAJOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # COMPUTE_CAPABILITY_MINOR
    cuda.cuDeviceGetName(name, _NAME_BYTES, device)
    cuda.cuDriverGetVersion(ctypes.byref(driver))
    return Device(name.value.decode(errors="replace"), (major.value, minor.value), driver.value)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def require_portable(file: Path, *, target: str) -> None:
    """Raise ``UnsupportedError`` for a graph with operators of our own: they are C++ for the CPU,
    and what would hand them back to it on the way carried the wrong name.
    """
    if uses_operators(file):
        raise UnsupportedError(
            f"{file}: the graph has operators of the domain {DOMAIN!r}, which are built for the "
            f"CPU only; {target} can't take it: leave native_operators, or the native form of "
            "quantize_tables, out for this target",
            code="unsupported_model",
        )


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, else None; imports nothing."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def plan_machine() -> dict[str, str | None]:
    """What a TensorRT plan fits, for the keys of plans: TensorRT's version, the card, its compute
    capability and the driver; the last three are None where there is no device.
    """
    try:
        device: Device | None = find_device()
    except UnsupportedError:
        device = None
    return {
        "tensorrt": installed("tensorrt"),
        "card": device.name if device else None,
        "capability": _dotted(device.capability) if device else None,
        "driver": str(device.driver) if device else None,
    }
