"""The GPU's state by a fake of NVIDIA's binding that has only the names we call, in their units."""

from types import SimpleNamespace
from typing import Any

import pytest

from harness.suites import gpu_health
from harness.suites.gpu_health import (
    Gpu,
    GpuSample,
    gpu_health_rows,
    gpu_line,
    gpu_noise,
    reasons_of,
    settled,
    slowed,
)


class NVMLError(Exception):
    """As the binding's."""


def nvml(**changes: Any) -> Any:
    """A device at 1980 MHz, 45 degrees, 350.5 W, held by its power cap (4); two processes."""
    processes = [
        SimpleNamespace(pid=1, usedGpuMemory=7),
        SimpleNamespace(pid=99, usedGpuMemory=2_000_000),
    ]
    calls = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": lambda bus: f"device at {bus}",
        "nvmlDeviceGetClockInfo": lambda device, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetTemperature": lambda device, sensor: {0: 45}[sensor],
        "nvmlDeviceGetPowerUsage": lambda device: 350_500,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 4,
        "nvmlDeviceGetComputeRunningProcesses": lambda device: processes,
    }
    return SimpleNamespace(**{**calls, **changes})


def refuses(*args: object) -> None:
    raise NVMLError("Not Supported")


def test_a_sample_is_in_mhz_degrees_and_watts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_health.os, "getpid", lambda: 99)
    gpu = Gpu(library=nvml(), bus="0000:19:00.0")
    assert gpu.missing is None
    assert gpu.sample() == GpuSample(1980, 45, 350.5, 4, 2_000_000)


def test_what_a_device_does_not_tell_is_none_and_the_rest_is_told() -> None:
    library = nvml(nvmlDeviceGetPowerUsage=refuses, nvmlDeviceGetTemperature=refuses)
    sample = Gpu(library=library, bus="x").sample()
    assert (sample.sm_mhz, sample.celsius, sample.watts, sample.reasons) == (1980, None, None, 4)
    assert sample.own_bytes is None  # no process of this number: a container's own numbers


def test_without_a_driver_or_the_package_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = Gpu(library=nvml(nvmlInit=refuses), bus="x")
    assert gone.missing == "NVML tells nothing: Not Supported"
    assert gone.sample() == GpuSample()
    monkeypatch.setitem(gpu_health.__dict__["ctypes"].__dict__, "CDLL", _no_library)
    assert Gpu(library=nvml()).missing == "NVML tells nothing: libcuda.so.1: not found"
    import sys

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpu().missing == "nvidia-ml-py isn't installed (no module pynvml)"


def _no_library(name: str) -> None:
    raise OSError(f"{name}: not found")


def test_reasons_are_decoded_bit_by_bit() -> None:
    assert reasons_of(0) == ()
    assert reasons_of(0x1) == ("idle",)
    assert reasons_of(0x4 | 0x20) == ("power cap", "heat (software)")
    assert reasons_of(0x80 | 0x8000) == ("power brake", "unknown (0x8000)")
    assert slowed(GpuSample(reasons=0x1 | 0x2 | 0x10 | 0x100)) == ()
    assert slowed(GpuSample(reasons=0x1 | 0x40)) == ("heat (hardware)",)
    assert slowed(GpuSample()) == ()


@pytest.mark.parametrize(
    ("clocks", "is_settled"),
    [
        ([], True),  # no GPU
        ([None, None], True),  # not told
        ([1000.0, 1000.0], False),  # too few looks
        ([500.0, 1000.0, 1000.0, 1030.0], True),  # 3 % and no more; the first no longer counts
        ([1000.0, 1000.0, 1031.0], False),
        ([1980.0, 1980.0, 1200.0], False),
    ],
)
def test_clocks_have_settled_when_the_last_three_are_within_three_percent(
    clocks: list[float | None], is_settled: bool
) -> None:
    assert settled(clocks) is is_settled


def test_noise_names_what_slowed_more_than_a_quarter_of_the_blocks() -> None:
    fine, capped = GpuSample(1900, reasons=1), GpuSample(1900, reasons=4)
    assert gpu_noise([]) is None
    assert gpu_noise([fine, fine, fine, capped]) is None
    told = "the GPU was slowed down in 2 of 4 blocks, most often by power cap"
    assert gpu_noise([fine, capped, fine, capped]) == told
    assert gpu_noise([GpuSample(1000), GpuSample(1100)]) is None
    varied = "the GPU's clock varied from 1000 to 1101 MHz"
    assert gpu_noise([GpuSample(1000), GpuSample(1101)]) == varied


def test_rows_of_the_machine_and_columns_of_a_block() -> None:
    samples = [GpuSample(1000, 50, 300, 0), GpuSample(1010, 60, 500, 0x24), GpuSample(1020)]
    rows = {row.metric: row for row in gpu_health_rows({"baseline": "b"}, 1, samples)}
    assert {name: (row.value, row.n) for name, row in rows.items()} == {
        "gpu_mhz": (1010.0, 3),
        "gpu_celsius": (60.0, 2),
        "gpu_watts": (400.0, 2),
        "gpu_slowed_blocks": (0.5, 2),
    }
    assert rows["gpu_slowed_blocks"].reason == "power cap: 1 blocks, heat (software): 1 blocks"
    assert {(row.recipe, row.device, row.threads) for row in rows.values()} == {
        ("machine", "cuda", 1)
    }
    silent = gpu_health_rows({"baseline": "b"}, 1, [GpuSample()])
    assert {(row.value, row.n) for row in silent} == {(None, 0)}
    assert gpu_health_rows({"baseline": "b"}, 1, []) == []
    assert gpu_line(samples[1])["gpu_reasons"] == "power cap, heat (software)"
    assert gpu_line(samples[0])["gpu_reasons"] == "none"
    assert gpu_line(None) == dict.fromkeys(("gpu_mhz", "gpu_celsius", "gpu_watts", "gpu_reasons"))


def test_the_real_binding_has_the_names_and_numbers_that_are_used() -> None:
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py isn't installed")
    assert {name for name in vars(nvml()) if not hasattr(real, name)} == set()
    assert (real.NVML_CLOCK_SM, real.NVML_TEMPERATURE_GPU) == (1, 0)
    prefix = "nvmlClocksThrottleReason"
    bits = {value for name, value in vars(real).items() if name.startswith(prefix)}
    assert bits - {0, real.nvmlClocksThrottleReasonAll} == set(gpu_health.REASONS)
    assert issubclass(real.NVMLError, Exception)
