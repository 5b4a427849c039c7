"""The energy that a block of work took, from the counters of CPU packages (RAPL) and GPUs (NVML).

It is the whole machine's (all packages and their memory, all GPUs): what else ran is in it, and
what the machine takes when idle isn't taken off.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

POWERCAP = Path("/sys/class/powercap")
NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of the CPU packages and of the GPUs while something ran; without a figure the reason.

    A machine without a GPU has neither ``gpu`` nor ``no_gpu``.
    """

    cpu: float | None = None
    gpu: float | None = None
    no_cpu: str | None = None
    no_gpu: str | None = None


@dataclass(frozen=True, slots=True)
class _Counter:
    """One RAPL domain's reading in microjoules; it starts again after ``most``."""

    value: int
    most: int


def read_gpu_energy() -> float | str | None:
    """Joules since the driver was loaded of all GPUs together; a reason where they can't be read,
    None where there is no GPU.
    """
    try:
        import pynvml
    except ImportError:
        return "install nvidia-ml-py to read the GPU's energy" if NVIDIA.exists() else None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None  # no driver: nothing here that takes energy
    try:
        devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        used = [pynvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in devices]
    except pynvml.NVMLError as error:
        return f"NVML doesn't tell the energy: {error}"
    finally:
        pynvml.nvmlShutdown()
    return sum(used) / 1000 if used else None


class EnergyMeter:
    """Reads the counters when entered and when left; ``energy`` is what was used between.

    A counter that started again in between is allowed for, once: a block longer than the counter's
    range (minutes at full load) reads too low.
    """

    def __init__(
        self,
        root: Path = POWERCAP,
        gpu: Callable[[], float | str | None] = read_gpu_energy,
    ) -> None:
        self._root = root
        self._gpu = gpu
        self.energy = Energy(no_cpu="the block isn't over")

    def __enter__(self) -> Self:
        self._before = _read_cpu(self._root), self._gpu()
        return self

    def __exit__(self, *_: object) -> None:
        cpu, gpu = _read_cpu(self._root), self._gpu()
        cpu_before, gpu_before = self._before
        used, no_cpu = _cpu_used(cpu_before, cpu)
        if isinstance(gpu, float) and isinstance(gpu_before, float):
            self.energy = Energy(used, gpu - gpu_before, no_cpu)
        else:
            told = next((part for part in (gpu, gpu_before) if isinstance(part, str)), None)
            self.energy = Energy(used, None, no_cpu, told)


def _read_cpu(root: Path) -> dict[str, _Counter] | str:
    """Readings of the packages and of the memory beside them, by name; a reason when one can't be
    read. Parts of a package (core, uncore) are in it already, as a package is in ``psys``.
    """
    domains = {}
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                value = int((folder / "energy_uj").read_text())
                domains[folder.name] = _Counter(
                    value, int((folder / "max_energy_range_uj").read_text())
                )
        except PermissionError:
            return f"{folder}/energy_uj: permission denied; it takes root to read it"
        except (OSError, ValueError) as error:
            return f"{folder}: can't be read ({error})"
    return domains or f"no energy counter (RAPL) under {root}"


def _cpu_used(
    before: dict[str, _Counter] | str, after: dict[str, _Counter] | str
) -> tuple[float | None, str | None]:
    """Joules between two readings, or the reason why they aren't known."""
    if isinstance(before, str) or isinstance(after, str):
        return None, before if isinstance(before, str) else str(after)
    if set(before) != set(after):
        return None, "energy counters came or went during the block"
    used = sum(_difference(before[name], after[name]) for name in before)
    return used / 1e6, None


def _difference(before: _Counter, after: _Counter) -> int:
    wrapped = after.value < before.value
    return after.value - before.value + (after.most if wrapped else 0)
