"""A weight that is stored in 8-bit floats with a scale for each block, as the numbers that it stands for: the products
of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.block_scales import multiply
from ..formats.checkpoint import Checkpoint
from ..formats.memory_file import MemoryFile
from ..formats.tensors import DTYPE_BITS, TensorFile, TensorInfo, numpy_dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Elements that are worked on at a time where a whole weight is read.
_AT_A_TIME = 1 << 20


@dataclass(frozen=True, eq=False)
class ScaledWeight:
    """A `TensorFile` of one weight, as the numbers that it stands for.

    Attributes
    ----------
    name : str
    weight, scale : TensorFile
        That hold the 8-bit floats, and the scales.
    scale_name : str
    block : (int, int)
        Rows and columns that share a scale; the last blocks may be smaller.
    dtype : str
        What `read` rounds to, as safetensors names it.
    companions : tuple of str
        The tensors that mean nothing without the 8-bit weight, its scales among them.
    """

    name: str
    weight: TensorFile
    scale: TensorFile
    scale_name: str
    block: tuple[int, int]
    dtype: str
    companions: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.weight.path

    @property
    def stored(self) -> TensorInfo:
        """The 8-bit tensor."""
        return self.weight.tensors[self.name]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        stored = self.stored
        size = stored.parameters * DTYPE_BITS[self.dtype] // 8
        return {self.name: TensorInfo(self.name, self.dtype, stored.shape, 0, size)}

    @cached_property
    def _scales(self) -> NDArray[Any]:
        """(row blocks, column blocks) float32; those of several matrices below each other."""
        import numpy as np

        scales = self.scale.read(self.scale_name)
        if scales.dtype == np.uint8:
            with np.errstate(over="ignore"):  # what isn't finite is refused where it is used
                scales = np.ldexp(np.float32(1.0), scales.astype(np.int32) - 127)
        wide = scales.astype(np.float32)
        if wide.size == 1:
            return np.broadcast_to(wide.reshape(1, 1), (prod(self.stored.shape[:-2]), 1))
        return wide.reshape(-1, wide.shape[-1])

    def products(self, raw: NDArray[Any], first: int, out: NDArray[Any]) -> NDArray[Any]:
        """What the rows from `first` on stand for, in `out`; the rows of several matrices follow each other.

        Parameters
        ----------
        raw : (rows, columns) uint8
            As they are stored.
        out : (rows, columns) float32
        """
        import numpy as np

        np.take(_values(self.stored.dtype), raw, out=out, mode="clip")
        with np.errstate(over="ignore", invalid="ignore"):
            multiply(out, self._scales, self.block, first, self.stored.shape[-2])
        return out

    def read(self, name: str) -> NDArray[Any]:
        """The weight, rounded to `dtype`."""
        import numpy as np

        shape = self.stored.shape
        raw = self.weight.read(name).view(np.uint8).reshape(-1, shape[-1])
        whole = np.empty(raw.shape, numpy_dtype(self.dtype))
        rows = max(1, _AT_A_TIME // max(1, shape[-1]))
        with np.errstate(over="ignore"):
            for first in range(0, len(raw), rows):
                part = raw[first : first + rows]
                whole[first : first + rows] = self.products(part, first, np.empty(part.shape, np.float32))
        return whole.reshape(shape)

    def pieces(self, name: str) -> Iterator[bytes]:
        return MemoryFile(self.path, {name: self.read(name)}).pieces(name)

    def in_memory(self) -> ScaledWeight:
        """The same, with what is stored kept in memory."""
        names = ((self.weight, self.name), (self.scale, self.scale_name))
        weight, scale = (MemoryFile(file.path, {name: file.read(name)}) for file, name in names)
        return replace(self, weight=weight, scale=scale)


@lru_cache
def _values(dtype: str) -> NDArray[np.float32]:
    """What each byte is as a number, (256,)."""
    import numpy as np

    return np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype)).astype(np.float32)


def companions_of(base: Checkpoint) -> set[str]:
    """Scales, and what else belongs to the weights that are read as what they stand for."""
    return {name for source in base.held.values() if isinstance(source, ScaledWeight) for name in source.companions}
