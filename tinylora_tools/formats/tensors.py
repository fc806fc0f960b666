"""What every tensor file has in common: names, dtypes, shapes, and arrays read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bits an element takes, by the name that a safetensors header uses.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

#: Bytes of a tensor that are read at a time, where it is only looked through.
PIECE = 4 << 20

#: The floating-point dtypes that weights are stored in, with the names that PyTorch gives them.
FLOAT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

#: And back: what safetensors calls them.
DTYPE_OF = {name: dtype for dtype, name in FLOAT_NAMES.items()}

_NUMPY_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
_ML_DTYPES_NAMES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's place: its name, its dtype as safetensors names it, its shape, and the bytes [start, end) of its file.

    Where the bytes have no place of their own, in memory or in a pickled view whose elements aren't in a row, start is
    0 and end the number of bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def parameters(self) -> int:
        return prod(self.shape)


class Ranges(Protocol):
    """A file that isn't on this machine, of which ranges of bytes can be had; by several threads at once."""

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with the bytes from `start` on; raises TinyLoraError where they can't be had."""


class TensorFile(Protocol):
    """A file of named tensors. `tensors` costs no more than its header; `read` returns one array, `pieces` its bytes in
    pieces of PIECE bytes (the last may be shorter), for where it might not fit into memory."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def read(self, name: str) -> NDArray[Any]: ...

    def pieces(self, name: str) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Tensors:
    """An adapter's or a model's tensors, wherever they come from: what they are called, each one's file, the settings
    beside them, and what to know of them."""

    name: str
    files: Mapping[str, TensorFile]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def same_values(one: TensorFile, name: str, other: TensorFile, other_name: str) -> bool:
    """Whether two tensors hold the same values."""
    import numpy as np

    here, there = one.tensors[name], other.tensors[other_name]
    if here.dtype != there.dtype or here.shape != there.shape:
        return np.array_equal(one.read(name), other.read(other_name))
    return all(a == b for a, b in zip(one.pieces(name), other.pieces(other_name), strict=True))


def fingerprint(stored: NDArray[Any]) -> str:
    """sha256 of a tensor's dtype, shape and bytes as they are stored, in hex."""
    from hashlib import sha256  # brings OpenSSL's library

    import numpy as np

    found = sha256(f"{stored.dtype.name} {list(stored.shape)} ".encode())
    found.update(np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype for a safetensors dtype name; ml_dtypes supplies bfloat16 and the 8-bit floats.

    Raises
    ------
    KeyError
        For dtypes narrower than a byte, which NumPy can't hold packed.
    """
    import numpy as np

    if name in _NUMPY_NAMES:
        return np.dtype(_NUMPY_NAMES[name]).newbyteorder("<")
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES_NAMES[name]))
    return found


def float_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a floating-point dtype by PyTorch's name, such as "bfloat16".

    Raises
    ------
    KeyError
        If it is none of `FLOAT_NAMES`.
    """
    return numpy_dtype(DTYPE_OF[name])


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The safetensors name of a NumPy dtype.

    Raises
    ------
    KeyError
        For dtypes that safetensors doesn't have.
    """
    names = {numpy: name for name, numpy in (_NUMPY_NAMES | _ML_DTYPES_NAMES).items()}
    return names[dtype.name]
