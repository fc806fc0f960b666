"""Named tensors in memory, where others have a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tensors import PIECE, TensorFile, TensorInfo, dtype_name

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class MemoryFile:
    """A `TensorFile` whose tensors are arrays; `path` is what they came from. What `read` gives isn't a copy."""

    path: Path
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: TensorFile, names: Mapping[str, TensorInfo] | None = None) -> MemoryFile:
        """All tensors of another file, or those in `names`, each read once."""
        return cls(file.path, {name: file.read(name) for name in names or file.tensors}, file.metadata)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {n: TensorInfo(n, dtype_name(a.dtype), a.shape, 0, a.nbytes) for n, a in self.arrays.items()}

    def read(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def pieces(self, name: str) -> Iterator[bytes]:
        data = self.arrays[name].reshape(-1).view("uint8")
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE].tobytes()
