"""Blocks of inputs, recorded calls and device times, by a stand-in for ``torch.cuda``."""

from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import CUDAGraph, Event, FakeCuda, Stream
from hypothesis import given
from hypothesis import strategies as st

from harness.engines import cuda_calls
from harness.engines.cuda_calls import (
    ALIGNED,
    Recorder,
    device_seconds,
    fault_code,
    layout_of,
    upload,
)
from harness.errors import UnsupportedError

SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
KINDS = st.sampled_from(["int64", "int32", "float32", "float16"])


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.tuples(SHAPES, KINDS), min_size=1)
)
def test_what_is_packed_comes_out_the_same(inputs: dict[str, tuple[tuple[int, ...], str]]) -> None:
    random = np.random.default_rng(0)
    feeds = {
        name: random.integers(-9, 9, shape).astype(kind) for name, (shape, kind) in inputs.items()
    }
    batch = upload(feeds)
    assert all(place.start % ALIGNED == 0 for place in batch.layout)
    for name, array in feeds.items():
        found = batch.tensors[name].numpy()
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_a_batch_is_not_the_callers() -> None:
    array = np.ones((2, 2), np.float32)
    batch = upload({"x": array.T})
    array[...] = 0
    assert batch.tensors["x"].sum() == 4


def test_layouts_are_equal_for_equal_sizes_alone() -> None:
    def layout(rows: int, kind: str = "int64") -> Any:
        return layout_of({"a": np.zeros((rows, 2), kind), "b": np.zeros(rows, np.float32)})

    assert layout(3) == layout(3)
    assert len({layout(3), layout(4), layout(3, "int32")}) == 3


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_calls, "DEVICE", "cpu")


class Doubling:
    """``2 x`` recorded: the graph, when replayed, works the outputs out again in their place."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.calls = cuda, 0

    def __call__(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        outputs = tensors["x"] * 2
        if self.cuda.capturing is not None:
            self.cuda.capturing.recorded = lambda: outputs.copy_(tensors["x"] * 2)  # type: ignore[assignment]
        return outputs


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def x(*values: float) -> Any:
    return upload({"x": np.array(values, np.float32)})


def test_a_size_is_recorded_once_and_replayed_for_every_batch_of_it(cuda: FakeCuda) -> None:
    call, stream = Doubling(cuda), Stream()
    recorder = Recorder(call, stream, cuda=cuda)
    one, other, longer = x(1, 2), x(3, 4), x(5, 6, 7)
    recorded = [recorder.recorded(batch) for batch in (one, other, longer)]
    assert recorded[0] is recorded[1]
    assert recorder.notes["graphs"] == 2
    assert recorder.notes["cuda_graph"] is True
    assert recorder.notes["graph_seconds"] > 0
    made = call.calls
    assert recorded[0].replay(one).tolist() == [2, 4]
    assert recorded[2].replay(longer).tolist() == [10, 12, 14]
    assert recorded[1].replay(other).tolist() == [6, 8]
    assert recorded[0].replay(one).tolist() == [2, 4]
    assert call.calls == made, "a replay calls nothing"
    assert one.tensors["x"].tolist() == [1, 2]
    assert cuda.pools == [None, (0, 1)], "graphs share the first one's memory"
    assert cuda.streams == [stream, stream]


def test_outputs_are_overwritten_by_the_next_replay(cuda: FakeCuda) -> None:
    recorder = Recorder(Doubling(cuda), Stream(), cuda=cuda)
    one, other = x(1), x(3)
    first = recorder.recorded(one).replay(one)
    recorder.recorded(other).replay(other)
    assert first.tolist() == [6]


def test_the_oldest_graph_goes_and_a_prepared_batch_keeps_its_own(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_calls, "MOST_GRAPHS", 2)
    recorder = Recorder(Doubling(cuda), Stream(), cuda=cuda)
    batches = [x(*range(size)) for size in (1, 2, 3)]
    kept = [recorder.recorded(batch) for batch in batches]
    assert len(recorder.known) == 2
    assert kept[0].replay(batches[0]).tolist() == [0]
    assert recorder.recorded(batches[2]) is kept[2]
    assert recorder.recorded(batches[0]) is not kept[0]
    assert recorder.count == 4, "recording again is counted"


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("operation not permitted when stream is capturing\nmore", "unsupported_model"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
    ],
)
def test_a_call_that_can_not_be_recorded_is_named(cuda: FakeCuda, told: str, code: str) -> None:
    def call(tensors: object) -> None:
        raise RuntimeError(told)

    with pytest.raises(UnsupportedError, match="can't be recorded as a CUDA graph") as caught:
        Recorder(call, Stream(), cuda=cuda).recorded(x(1))
    assert caught.value.code == code
    assert "more" not in str(caught.value)


def test_device_seconds_are_those_between_two_events(cuda: FakeCuda) -> None:
    Event.log = []
    assert device_seconds(lambda: Event.log.append("call"), 5, cuda=cuda) == 5.0


def test_torchs_own_lack_of_memory_is_told() -> None:
    assert fault_code(torch.OutOfMemoryError("no")) == "out_of_memory"


def test_the_stand_in_has_names_of_the_real_module_alone() -> None:
    def own(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    extra = {
        FakeCuda: (torch.cuda, set()),
        CUDAGraph: (torch.cuda.CUDAGraph, {"recorded"}),
        Stream: (torch.cuda.Stream, {"cuda_stream"}),
        Event: (torch.cuda.Event, {"log"}),
    }
    for fake, (real, added) in extra.items():
        assert own(fake) - added <= set(dir(real)), fake
