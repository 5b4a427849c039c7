"""Energy counters: which are read, that they start again, and that they may be out of reach."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.suites import energy
from harness.suites.energy import Energy, EnergyMeter, read_gpu_energy

MOST = 1_000_000_000


def domain(root: Path, folder: str, name: str, value: int) -> Path:
    """One domain of a made-up sysfs tree; gives the file of its counter."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{MOST}\n")
    counter = root / folder / "energy_uj"
    counter.write_text(f"{value}\n")
    return counter


def no_gpu() -> None:
    return None


def test_joules_of_one_package(tmp_path: Path) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    with EnergyMeter(tmp_path, no_gpu) as meter:
        counter.write_text("12500000\n")
    assert meter.energy == Energy(cpu=7.5)


def test_packages_and_memory_count_and_their_parts_do_not_count_twice(tmp_path: Path) -> None:
    counters = [
        domain(tmp_path, folder, name, 0)
        for folder, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:2", "psys"),
        )
    ]
    with EnergyMeter(tmp_path, no_gpu) as meter:
        for joules, counter in zip((1, 2, 4, 8, 16), counters, strict=True):
            counter.write_text(f"{joules * 1_000_000}\n")
    assert meter.energy == Energy(cpu=1 + 2 + 8)


def test_a_counter_that_started_again(tmp_path: Path) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", MOST - 2_000_000)
    with EnergyMeter(tmp_path, no_gpu) as meter:
        counter.write_text("3000000\n")
    assert meter.energy == Energy(cpu=5.0)


def test_permission_denied_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def denied(path: Path, *args: Any, **values: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **values)

    monkeypatch.setattr(Path, "read_text", denied)
    with EnergyMeter(tmp_path, no_gpu) as meter:
        pass
    assert meter.energy.cpu is None
    assert meter.energy.no_cpu == (
        f"{tmp_path}/intel-rapl:0/energy_uj: permission denied; it takes root to read it"
    )


def test_no_counter_is_a_reason(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path / "none", no_gpu) as meter:
        pass
    assert meter.energy == Energy(no_cpu=f"no energy counter (RAPL) under {tmp_path}/none")


def test_a_counter_that_went_away_or_cannot_be_read(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    with EnergyMeter(tmp_path, no_gpu) as meter:
        domain(tmp_path, "intel-rapl:1", "package-1", 1)
    assert meter.energy.no_cpu == "energy counters came or went during the block"
    with EnergyMeter(tmp_path, no_gpu) as meter:
        domain(tmp_path, "intel-rapl:1", "package-1", 1).write_text("much")
    assert meter.energy.cpu is None
    assert "intel-rapl:1: can't be read" in (meter.energy.no_cpu or "")


def test_before_the_block_is_over_there_is_no_figure(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path, no_gpu).energy == Energy(no_cpu="the block isn't over")


def test_gpus_are_read_before_and_after(tmp_path: Path) -> None:
    readings = iter([100.0, 130.5])
    with EnergyMeter(tmp_path / "none", lambda: next(readings)) as meter:
        pass
    assert meter.energy.gpu == 30.5
    assert meter.energy.no_gpu is None
    broken = iter([100.0, "NVML doesn't tell"])
    with EnergyMeter(tmp_path / "none", lambda: next(broken)) as meter:
        pass
    assert (meter.energy.gpu, meter.energy.no_gpu) == (None, "NVML doesn't tell")


class NVMLError(Exception):
    """What the fake library raises."""


def fake_nvml(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[str]:
    """Two GPUs of 1500 and 500 mJ in the place of pynvml; gives what was called."""
    called: list[str] = []
    library = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: called.append("init"),
        "nvmlShutdown": lambda: called.append("shutdown"),
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTotalEnergyConsumption": lambda device: (1500, 500)[device],
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**{**library, **changes}))
    return called


def fails(*args: object) -> None:
    raise NVMLError("Not Supported")


def test_joules_of_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_nvml(monkeypatch)
    assert read_gpu_energy() == 2.0
    assert called == ["init", "shutdown"]


def test_gpus_that_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_nvml(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=fails)
    assert read_gpu_energy() == "NVML doesn't tell the energy: Not Supported"
    assert called == ["init", "shutdown"]


def test_no_gpu_is_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvml(monkeypatch, nvmlDeviceGetCount=lambda: 0)
    assert read_gpu_energy() is None
    fake_nvml(monkeypatch, nvmlInit=fails)
    assert read_gpu_energy() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it weren't installed
    monkeypatch.setattr(energy, "NVIDIA", tmp_path / "none")
    assert read_gpu_energy() is None


def test_a_gpu_without_the_package_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(energy, "NVIDIA", tmp_path)
    assert read_gpu_energy() == "install nvidia-ml-py to read the GPU's energy"
