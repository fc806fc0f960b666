"""Pickled PyTorch files (`.bin`, `.pt`): read with `weights_only`, so that nothing in them is ever run.

This is the one reader that needs torch, and it is imported only when such a file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from .tensors import PIECE, TensorInfo, numpy_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A state dict that `torch.save` wrote. Its tensors stay in the memory-mapped file until they are read."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]
    """Names whose tensor is the same storage, shape and place as an earlier name's, to that name."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    _state: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> NDArray[Any]:
        """The tensor as an array, not to be written to; nothing is copied when it is contiguous."""
        return array_of(self._state[name])

    def pieces(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes in turn."""
        data = self.read(name).reshape(-1).view("uint8")
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE].tobytes()


def array_of(tensor: Any) -> NDArray[Any]:
    """A tensor from a pickle as an array of the same dtype, bfloat16 included; nothing is copied when it is
    contiguous."""
    import torch

    tensor = tensor.detach().contiguous()
    dtype = numpy_dtype(_DTYPES[str(tensor.dtype).removeprefix("torch.")])
    array: NDArray[Any] = tensor.reshape(-1).view(torch.uint8).numpy().view(dtype).reshape(tuple(tensor.shape))
    return array


def load_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors, brought to the CPU from wherever they were, in dicts and lists.

    Raises
    ------
    FormatError
        If it is damaged, or would have to run code to be read.
    """
    import torch

    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written before PyTorch 1.6: no zip archive, so nothing to map
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch raises whatever the bytes make it raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(
            f"not a state dict that can be read safely ({reason})",
            where=path,
            hint="The file is damaged or holds more than tensors: save it again as safetensors.",
        ) from None


def read_torch_file(path: Path) -> TorchFile:
    """Open a pickled state dict.

    Raises
    ------
    FormatError
        If it is damaged, holds anything but tensors, or would have to run code to be read.
    """
    return torch_file_of(path, load_pickle(path))


def torch_file_of(path: Path, state: object) -> TorchFile:
    """What `load_pickle` gave, as a state dict; raises as `read_torch_file`."""
    import torch

    if not isinstance(state, dict):
        raise FormatError(f"holds a {type(state).__name__}, expected a state dict", where=path)
    tensors: dict[str, TensorInfo] = {}
    aliases: dict[str, str] = {}
    seen: dict[object, str] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise FormatError(f"{name!r} is a {type(tensor).__name__}, expected a tensor", where=path)
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.layout != torch.strided:
            raise FormatError(f"{name}: a {tensor.dtype} {tensor.layout} tensor isn't supported", where=path)
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), dtype)
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
        seen.setdefault(place, name)
        tensors[name] = TensorInfo(name, dtype, tuple(tensor.shape), 0, tensor.numel() * tensor.element_size())
    return TorchFile(path, tensors, aliases, _state=state)
