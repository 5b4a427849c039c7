"""Large weights of graphs where they stand in files: mapped, read and written by parts.

A tensor of a graph says where its numbers are: a name of a file beside the graph, or the whole path
of a scratch file of this process. Nothing of them is in memory but the pages that were touched,
and those are given back.
"""

import math
import mmap
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from harness.errors import DataError
from harness.stages.graph_sizes import check_sizes, inner_tensors

if TYPE_CHECKING:
    import onnx

SIDE_FILE = "model.onnx.data"
SIDE_FILE_ABOVE = 1 << 24
"""Bytes of weights above which they go to a side file (a protobuf message is read and written
whole, several copies of it, and ends at 2 GB)."""
SIDE_FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's option for where the side files of a graph are that isn't read from a file."""
ASIDE_FROM = 1024
"""Bytes from which a tensor goes there; what shapes are worked out from must stay in the graph."""
ALIGNMENT = 4096
"""Where a tensor may start, as ONNX advises for files that are mapped."""
PART = 1 << 24
"""Bytes written at a time."""
IN_MEMORY = 1 << 22
"""Bytes up to which a scratch array is a plain one."""

_OFFSET = re.compile("[0-9]{1,18}")

Empty = Callable[[tuple[int, ...], DTypeLike], np.ndarray]
"""Makes an array that is to be filled."""


@contextmanager
def scratch(folder: Path) -> Iterator[Empty]:
    """A maker of arrays that, where they are large, stand in files under ``folder``; these are
    gone afterwards. It raises ``OSError`` where the disk is full.
    """
    with TemporaryDirectory(dir=folder, prefix=".scratch-") as inside:

        def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if size <= IN_MEMORY:
                return np.empty(shape, dtype)
            path = Path(inside, str(len(os.listdir(inside))))
            with path.open("xb") as stream:
                stream.truncate(size)
                if hasattr(os, "posix_fallocate"):  # mapped without room for it, it would end us
                    os.posix_fallocate(stream.fileno(), 0, size)
            return np.memmap(path, dtype, "r+", shape=shape)

        yield empty


def release(*arrays: np.ndarray) -> None:
    """Give back the memory that pages of mapped arrays take; their files keep the content."""
    for array in arrays:
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        if base is not None and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def whole_map(array: np.ndarray) -> bool:
    """Whether an array is all of a mapped file, and not a part of one."""
    return isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)


def pointing_tensor(array: np.ndarray, name: str) -> "onnx.TensorProto":
    """A tensor whose numbers stay in the file that ``array`` maps whole."""
    from onnx import TensorProto, helper

    assert isinstance(array, np.memmap)
    assert array.filename is not None
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
    return _point(tensor, str(array.filename), offset=0, length=array.nbytes)


def _point(
    tensor: "onnx.TensorProto", location: str, *, offset: int, length: int
) -> "onnx.TensorProto":
    """The tensor without numbers of its own; they are at that place."""
    from onnx import TensorProto

    pointing = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    pointing.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        pointing.external_data.add(key=key, value=str(value))
    return pointing


def is_aside(tensor: "onnx.TensorProto") -> bool:
    """Whether a tensor's numbers are in another file."""
    return bool(tensor.data_location == type(tensor).EXTERNAL)


def tensor_bytes(tensor: "onnx.TensorProto") -> int:
    """Bytes of a tensor's numbers, by its shape and type alone."""
    from onnx import helper

    # Python's integers: no product of rows and columns overflows.
    size = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return math.prod(int(length) for length in tensor.dims) * size


def tensor_array(tensor: "onnx.TensorProto", folder: Path) -> np.ndarray:
    """The numbers of a tensor of a graph in ``folder``, of its shape, not to be changed: mapped
    where they are in a side file. Raises ``DataError`` where that file doesn't hold them.
    """
    from onnx import helper, numpy_helper

    if not is_aside(tensor):
        return numpy_helper.to_array(tensor)
    path, offset = _place(tensor, folder)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(int(length) for length in tensor.dims)
    return np.memmap(path, kind, "r", offset=offset, shape=shape)


def check_side_files(model: "onnx.ModelProto", folder: Path) -> None:
    """Raise ``DataError`` when a tensor's numbers aren't whole, in the graph or (of initializers
    alone) in a file of ``folder``, and as ``check_sizes``.
    """
    check_sizes(model, folder)
    for tensor in filter(is_aside, inner_tensors(model)):
        raise DataError(
            f"{folder}: the numbers of {tensor.name!r}, inside a node, are said to be in a file; "
            "expected them in the graph"
        )
    for tensor in filter(is_aside, model.graph.initializer):
        location = _told(tensor).get("location", "")
        if not location or Path(location).name != location:
            raise DataError(
                f"{folder}: the numbers of {tensor.name!r} are in {location!r}; expected the name "
                "of a file beside the graph"
            )
        if tensor.data_type not in _kinds():
            raise DataError(
                f"{folder}: the numbers of {tensor.name!r} are of type {tensor.data_type}, which "
                "no file of numbers has"
            )
        _place(tensor, folder)


def _kinds() -> set[int]:
    """ONNX's types that are numbers, and so may stand in a file."""
    from onnx import TensorProto, helper

    return set(helper.get_all_tensor_dtypes()) - {TensorProto.STRING}


def _told(tensor: "onnx.TensorProto") -> dict[str, str]:
    return {_text(entry.key): _text(entry.value) for entry in tensor.external_data}


def _text(value: str | bytes) -> str:
    """A text of a graph; protobuf gives bytes for one that isn't UTF-8, as none of ours is."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _place(tensor: "onnx.TensorProto", folder: Path) -> tuple[Path, int]:
    told = _told(tensor)
    path, start = folder / told["location"], told.get("offset", "0")
    if os.path.islink(path) or not _OFFSET.fullmatch(start):
        raise DataError(
            f"{path}: the numbers of {tensor.name!r} are said to be in it from byte {start!r} on; "
            "expected a file of the graph's folder, no link, and a number"
        )
    # Unlike pathlib, of a name that is too long too.
    offset, size = int(start), os.path.getsize(path) if os.path.isfile(path) else 0
    needed = tensor_bytes(tensor)
    if offset + needed > size:
        raise DataError(
            f"{path}: {size} bytes, but {tensor.name!r} takes {needed} from byte {offset} on; the "
            "file is missing or cut short: make the artifact again"
        )
    return path, offset


def save_graph(model: "onnx.ModelProto", path: Path, *, folder: Path) -> None:
    """Write a graph to ``path``, all weights with it, or in one new side file when they are large;
    tensors that are in files are read from ``folder``.

    Weights that went to a side file are in it and no longer in ``model``.
    """
    assert path.parent != folder, "what is read would be overwritten"
    path.with_name(SIDE_FILE).unlink(missing_ok=True)
    tensors = model.graph.initializer
    if sum(map(tensor_bytes, tensors)) <= SIDE_FILE_ABOVE:
        for tensor in tensors:
            if is_aside(tensor):
                inside = tensor_array(tensor, folder).tobytes()
                tensor.CopyFrom(_plain(tensor, inside))
    else:
        with path.with_name(SIDE_FILE).open("wb") as stream:
            for tensor in tensors:
                if is_aside(tensor) or _goes_aside(tensor):
                    offset = _append(stream, tensor_array(tensor, folder))
                    length = tensor_bytes(tensor)
                    tensor.CopyFrom(_point(tensor, SIDE_FILE, offset=offset, length=length))
    path.write_bytes(model.SerializeToString(deterministic=True))


def _goes_aside(tensor: "onnx.TensorProto") -> bool:
    """Whether a tensor is large, and its numbers have whole bytes of a fixed size."""
    from onnx import TensorProto

    packed = (TensorProto.STRING, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
    return tensor_bytes(tensor) >= ASIDE_FROM and tensor.data_type not in packed


def _plain(tensor: "onnx.TensorProto", raw: bytes) -> "onnx.TensorProto":
    from onnx import TensorProto

    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)


def _append(stream: Any, array: np.ndarray) -> int:
    """Write an array at the next aligned place of a file by parts; gives the place."""
    stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
    offset: int = stream.tell()
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for first in range(0, len(flat), PART):
        stream.write(flat[first : first + PART])
        release(array)
    return offset
