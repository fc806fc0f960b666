"""Pickled state dicts (`.bin`, `.pt`) as files of named tensors; torch isn't needed to read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from .pickled.stored import StoredTensor, load_pickle
from .safetensors_file import fill
from .tensors import PIECE, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A state dict that `torch.save` wrote."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]
    """Names whose tensor is the same storage, shape and place as an earlier name's, to that name."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    _stored: Mapping[str, StoredTensor] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> NDArray[Any]:
        """The tensor as an array of its own."""
        return self._stored[name].read()

    def pieces(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes in turn."""
        stored, info = self._stored[name], self.tensors[name]
        if not stored.is_contiguous:
            data = stored.read().reshape(-1).view("uint8")
            yield from (data[start : start + PIECE].tobytes() for start in range(0, len(data), PIECE))
            return
        with self.path.open("rb") as file:
            for start in range(info.start, info.end, PIECE):
                piece = bytearray(min(PIECE, info.end - start))
                fill(file.fileno(), memoryview(piece), start, name, self.path)
                yield bytes(piece)


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
    if not isinstance(state, dict):
        raise FormatError(f"holds a {_kind(state)}, expected a state dict", where=path)
    tensors: dict[str, TensorInfo] = {}
    aliases: dict[str, str] = {}
    seen: dict[object, str] = {}
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise FormatError(f"has the key {_short(name)} ({_kind(name)}), expected a tensor's name", where=path)
        if not isinstance(tensor, StoredTensor):
            raise FormatError(f"{name!r} is a {_kind(tensor)}, expected a tensor", where=path)
        place = (tensor.start, tensor.shape, tensor.strides, tensor.dtype)
        if tensor.nbytes and place in seen:
            aliases[name] = seen[place]
        seen.setdefault(place, name)
        start = tensor.start if tensor.is_contiguous else 0
        tensors[name] = TensorInfo(name, tensor.dtype, tensor.shape, start, start + tensor.nbytes)
    return TorchFile(path, tensors, aliases, _stored=state)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _kind(value: object) -> str:
    return "tensor" if isinstance(value, StoredTensor) else type(value).__name__
