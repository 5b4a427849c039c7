"""A GPU's peaks: the arithmetic by a made clock, the calls on the CPU, and what is made of them."""

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import pytest

from harness.errors import UnsupportedError
from harness.suites import gpu_peaks
from harness.suites.gpu_peaks import best_seconds, measure_on
from harness.suites.peaks import Peak, Peaks, measure_peaks
from harness.suites.roofline import NoPeaks, compute_peak, limit, peak_rows
from harness.suites.work import Work

GPU = Peaks(
    1,
    Peak(100.0, 3, "a"),
    Peak(800.0, 3, "b"),
    {1000: Peak(50.0, 3, "c")},
    {1000: Peak(20.0, 3, "d")},
    "cuda",
    {"fp16": Peak(400.0, 3, "e"), "bf16": Peak(200.0, 3, "f")},
    {"to_device": Peak(5.0, 3, "g"), "to_host": Peak(4.0, 3, "h")},
)

ANSWER = {
    "ok": True,
    "threads": 3,
    "fp32": {"value": 1e11, "n": 5, "how": "a"},
    "int8": {"value": None, "n": 0, "how": "nothing can"},
    "streams": [],
    "random_rows": [],
}


def answering(answer: object) -> tuple[str, ...]:
    """A child that answers so."""
    return (sys.executable, "-c", f"print({json.dumps(answer)!r})")


def test_the_least_of_the_repeats_counts_and_the_first_does_not() -> None:
    told = iter([9.0, 0.2, 0.1, 0.4, 0.3, 0.5])
    # 0.2 + 0.1 + 0.4 = 0.7 s are less than the second asked for; with 0.3 they are enough.
    assert best_seconds(lambda: None, lambda call: next(told), 1.0) == (0.1, 4)
    assert best_seconds(lambda: None, lambda call: 5.0, 0.1) == (5.0, 3)


def wall(call: Any) -> float:
    start = time.perf_counter()
    call()
    return max(1e-9, time.perf_counter() - start)


def test_the_same_calls_run_on_a_cpu() -> None:
    sizes = {"products": [32], "streams": [4096], "tables": [65_536]}
    found = measure_on("cpu", wall, 0.001, sizes=sizes)
    assert set(found["halves"]) == {"fp16", "bf16"}
    every = [found["fp32"], found["int8"], *found["halves"].values()]
    every += [peak for name in ("streams", "random_rows") for _, peak in found[name]]
    assert all(peak["value"] > 0 and peak["n"] >= 3 for peak in every)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))


def test_rates_by_a_clock_of_one_second() -> None:
    sizes = {"products": [32], "streams": [4096], "tables": [65_536]}
    found = measure_on("cpu", lambda call: [call(), 1.0][1], 0.0, sizes=sizes)
    assert found["fp32"]["value"] == found["halves"]["bf16"]["value"] == 2 * 32**3
    assert found["streams"] == [(4096, asdict(Peak(4096.0, 3, "torch copy within the device")))]
    # 65,536 bytes are 256 rows of 256 bytes, all of which are gathered.
    assert found["random_rows"][0][1]["value"] == 65_536


def test_a_product_that_the_device_lacks_has_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(a: Any, b: Any) -> Any:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(gpu_peaks, "_int8_product", refuse)
    sizes = {"products": [32], "streams": [], "tables": []}
    found = measure_on("cpu", wall, 0.0, sizes=sizes)
    assert found["int8"] == {"value": None, "n": 0, "how": "torch, int8: no kernel for this"}


def test_an_answer_with_a_device_is_read() -> None:
    more = {
        "device": "cuda",
        "halves": {"fp16": {"value": 4e14, "n": 3, "how": "e"}},
        "links": {"to_host": {"value": 5e10, "n": 3, "how": "f"}},
    }
    found = measure_peaks(3, seconds=0.5, timeout=60, command=answering({**ANSWER, **more}))
    assert (found.device, found.halves["fp16"].value) == ("cuda", 4e14)
    assert found.links == {"to_host": Peak(5e10, 3, "f")}
    assert measure_peaks(3, seconds=0.5, timeout=60, command=answering(ANSWER)).device == "cpu"


@pytest.mark.parametrize(
    ("label", "peak"),
    [("fp32", 100.0), ("fp16", 400.0), ("bf16", 200.0), ("int8", 800.0), ("mixed int8", 800.0)],
)
def test_products_take_the_peak_of_their_precision(label: str, peak: float) -> None:
    assert compute_peak(GPU, label).value == peak
    # 4000 operations, 10 bytes that stream (0.2 s), 10 bytes of rows (0.5 s).
    found = limit(Work(4000, 10, ((1000, 10),), 0, 0), GPU, label)
    assert found.seconds == pytest.approx(4000 / peak)


def test_rows_of_a_gpu_have_names_of_their_own() -> None:
    rows = peak_rows({"baseline": "b"}, GPU)
    assert [(row.metric, row.value) for row in rows] == [
        ("gpu_peak_fp32", 100.0),
        ("gpu_peak_fp16", 400.0),
        ("gpu_peak_bf16", 200.0),
        ("gpu_peak_int8", 800.0),
        ("gpu_stream_bandwidth", 50.0),
        ("gpu_random_row_bandwidth", 20.0),
        ("gpu_to_device_bandwidth", 5.0),
        ("gpu_to_host_bandwidth", 4.0),
    ]
    assert {row.device for row in rows} == {"cuda"}
    (failed,) = peak_rows({"baseline": "b"}, NoPeaks(1, "no CUDA", "cuda"))
    assert (failed.metric, failed.device, failed.status) == ("gpu_peak_fp32", "cuda", "failed")


def test_a_half_on_a_cpu_computes_in_fp32() -> None:
    cpu = Peaks(1, Peak(100.0, 3, "a"), Peak(None, 0, "none"), {}, {})
    assert compute_peak(cpu, "fp16").value == 100.0
    with pytest.raises(UnsupportedError):
        limit(Work(1, 1, (), 0, 0), cpu, "fp32")
