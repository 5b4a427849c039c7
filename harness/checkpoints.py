"""Files of weights, by whomever: tensors by name, and nothing that is run or unpacked."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

from harness.errors import DataError
from harness.regular import open_regular

if TYPE_CHECKING:
    import torch

KINDS = (
    *("float16", "bfloat16", "float32", "float64"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
)
"""What numbers of weights are."""


def read_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """Tensors of a .safetensors file or of a plain state dict saved by torch; anything that holds
    more than weights is refused with a ``DataError``, unread.
    """
    import pickle
    import struct

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        open_regular(path).close()
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            _check_stored(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error
    except (
        # What torch's reader raises on damaged bytes, by trial of some thousand damaged files.
        *(SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError),
        *(LookupError, ValueError, TypeError, AttributeError, AssertionError, OverflowError),
        *(MemoryError, ImportError, BadZipFile),
    ) as error:
        raise DataError(
            f"{path}: refused: not a plain file of weights, or it contains more than weights; "
            "save a state dict, or a .safetensors file"
        ) from error
    if not isinstance(state, dict) or not all(map(_is_weight, state.items())):
        raise DataError(f"{path}: refused: contains more than weights; save module.state_dict()")
    return state


def _check_stored(path: Path) -> None:
    """Raise ``BadZipFile`` for a checkpoint that unpacks to more than it is: torch packs nothing,
    and no two tensors of its files share their bytes.
    """
    if not is_zipfile(path):
        return  # torch's older form, which isn't packed
    with ZipFile(path) as archive:
        entries = archive.infolist()
    packed = any(entry.compress_type != ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BadZipFile("packed")


def _is_weight(item: tuple[Any, Any]) -> bool:
    """Whether a named value of a checkpoint is a plain tensor."""
    import torch

    name, value = item
    if not isinstance(name, str) or not torch.is_tensor(value):
        return False
    dense = value.layout == torch.strided and not value.is_nested and value.device.type == "cpu"
    return dense and str(value.dtype).removeprefix("torch.") in KINDS
