"""The GPU's own state, read by NVML beside every block: clocks, throttling, heat, power, memory.

The names are those of NVIDIA's binding (package ``nvidia-ml-py``, module ``pynvml``). The device is
the one that CUDA calls 0, found by its place on the PCI bus, since NVML counts devices in another
order and doesn't know ``CUDA_VISIBLE_DEVICES``. Clocks are never locked, only told.
"""

import ctypes
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.results import MACHINE, Row

REASONS: Mapping[int, str] = {
    0x001: "idle",
    0x002: "clocks set by an application",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "heat (software)",
    0x040: "heat (hardware)",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability limit",
}
"""Bits of ``nvmlClocksThrottleReason*``."""
HARMLESS = {"idle", "clocks set by an application", "sync boost", "display clocks"}
"""What holds a clock down without anything being wrong: nothing to do, or somebody's setting."""
SETTLED = 0.03
"""Highest of the last clocks over the lowest, less 1, that counts as settled."""
LOOKS = 3
MOST_SLOWED = 0.25
"""Share of a point's blocks that may be slowed down before the point counts as noisy."""
MOST_MHZ_SPREAD = 0.10
_MULTIPROCESSORS, _SENSOR = 1, 0
"""``NVML_CLOCK_SM`` and ``NVML_TEMPERATURE_GPU``."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """The device at one moment; None is what it doesn't tell. ``reasons`` are the bits that say
    what holds the clock down, ``own_bytes`` this process's device memory.
    """

    sm_mhz: float | None = None
    celsius: float | None = None
    watts: float | None = None
    reasons: int | None = None
    own_bytes: int | None = None


class Gpu:
    """An open device, or the reason (``missing``) why it tells nothing."""

    def __init__(self, *, library: Any = None, bus: str | None = None) -> None:
        self.missing: str | None = None
        self._nvml, self._handle = library, None
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
        except ImportError:
            self.missing = "nvidia-ml-py isn't installed (no module pynvml)"
            return
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(bus or bus_id())
        except (self._nvml.NVMLError, OSError) as error:
            self.missing = f"NVML tells nothing: {error}"

    def sample(self) -> GpuSample:
        """The device now; nothing known where it is ``missing``."""
        if self._handle is None:
            return GpuSample()
        nvml, device = self._nvml, self._handle
        power = self._told(lambda: nvml.nvmlDeviceGetPowerUsage(device))  # milliwatts
        return GpuSample(
            sm_mhz=self._told(lambda: nvml.nvmlDeviceGetClockInfo(device, _MULTIPROCESSORS)),
            celsius=self._told(lambda: nvml.nvmlDeviceGetTemperature(device, _SENSOR)),
            watts=None if power is None else power / 1000,
            reasons=self._told(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)),
            own_bytes=self._told(self._own_bytes),
        )

    def _own_bytes(self) -> int | None:
        """None in a container with process numbers of its own, which NVML doesn't know."""
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        own = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
        return own[0] if own else None

    def _told(self, ask: Any) -> Any:
        """One figure; None where this device doesn't tell it."""
        try:
            return ask()
        except self._nvml.NVMLError:
            return None


def bus_id(library: str = "libcuda.so.1") -> str:
    """The place on the PCI bus of the device that CUDA calls 0; raises ``OSError`` without one."""
    cuda = ctypes.CDLL(library)
    text = ctypes.create_string_buffer(32)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetPCIBusId(text, len(text), 0) != 0:
        raise OSError("the CUDA driver finds no device")
    return text.value.decode()


def reasons_of(bits: int) -> tuple[str, ...]:
    """What holds the clock down, by name; a bit that isn't known by its number."""
    known = [name for bit, name in REASONS.items() if bits & bit]
    other = bits & ~sum(REASONS)
    return (*known, *([f"unknown ({other:#x})"] if other else []))


def slowed(sample: GpuSample) -> tuple[str, ...]:
    """What slowed the device down that shouldn't have."""
    return tuple(name for name in reasons_of(sample.reasons or 0) if name not in HARMLESS)


def settled(clocks: Sequence[float | None]) -> bool:
    """Whether the last ``LOOKS`` clocks lie within ``SETTLED`` of each other; a device that tells
    none isn't waited for.
    """
    known = [clock for clock in clocks if clock is not None]
    if not known:
        return True
    last = known[-LOOKS:]
    return len(last) == LOOKS and max(last) <= (1 + SETTLED) * min(last)


def gpu_noise(samples: Sequence[GpuSample]) -> str | None:
    """Why a point's blocks on the device count as noisy, in one sentence; None when they don't."""
    held = [slowed(sample) for sample in samples]
    count = sum(map(bool, held))
    if count > MOST_SLOWED * len(samples):
        most = Counter(name for names in held for name in names).most_common(1)[0][0]
        return f"the GPU was slowed down in {count} of {len(samples)} blocks, most often by {most}"
    clocks = _known(sample.sm_mhz for sample in samples)
    if clocks and max(clocks) > (1 + MOST_MHZ_SPREAD) * min(clocks):
        return f"the GPU's clock varied from {min(clocks):.0f} to {max(clocks):.0f} MHz"
    return None


def gpu_line(sample: GpuSample | None) -> dict[str, Any]:
    """A block's columns in the raw blocks."""
    told = sample or GpuSample()
    names = None if told.reasons is None else ", ".join(reasons_of(told.reasons)) or "none"
    return {
        "gpu_mhz": told.sm_mhz,
        "gpu_celsius": told.celsius,
        "gpu_watts": told.watts,
        "gpu_reasons": names,
    }


def gpu_health_rows(
    common: Mapping[str, Any], threads: int, samples: Sequence[GpuSample]
) -> list[Row]:
    """Median clock, highest temperature, median power and the share of slowed blocks, over all
    blocks of one thread count; none where nothing ran on a GPU.
    """
    if not samples:
        return []
    base = {**common, "recipe": MACHINE, "scenario": "health", "device": "cuda", "threads": threads}
    noise = gpu_noise(samples)
    told = [sample for sample in samples if sample.reasons is not None]
    names = Counter(name for sample in told for name in slowed(sample))
    figures: dict[str, tuple[str, list[float], Any]] = {
        "gpu_mhz": ("MHz", _known(s.sm_mhz for s in samples), np.median),
        "gpu_celsius": ("degC", _known(s.celsius for s in samples), max),
        "gpu_watts": ("W", _known(s.watts for s in samples), np.median),
        "gpu_slowed_blocks": ("share", [float(bool(slowed(s))) for s in told], np.mean),
    }
    causes = ", ".join(f"{name}: {count} blocks" for name, count in names.most_common())
    rows = []
    for metric, (unit, values, statistic) in figures.items():
        value = float(statistic(values)) if values else None
        reason = None if values else "NVML doesn't tell it (is nvidia-ml-py installed?)"
        rows.append(
            Row(
                **base,
                metric=metric,
                unit=unit,
                direction="lower" if metric == "gpu_slowed_blocks" else "none",
                value=value,
                n=len(values),
                noise=noise,
                reason=reason or (causes or None if metric == "gpu_slowed_blocks" else None),
            )
        )
    return rows


def _known(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]
