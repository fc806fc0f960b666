"""Weights that a base stores in 8-bit floats with a scale for each block, as the numbers that they stand for.

The form is that of DeepSeek-V3 and of transformers' FineGrainedFP8Config: a `weight` in F8_E4M3 beside a
`weight_scale_inv`, which some call `scale` or `qscale_weight`. What a weight stands for is the product of both in
float32 (`Fp8Dequantize` in transformers/integrations/finegrained_fp8.py, 5.23), rounded to the model's dtype where it
is loaded: that is the weight which PEFT trains on, since it can't factor 8-bit floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.block_scales import block_of, multiply
from ..formats.checkpoint import Checkpoint
from ..formats.memory_file import MemoryFile
from ..formats.tensors import DTYPE_BITS, DTYPE_OF, FLOAT_NAMES, TensorFile, TensorInfo, numpy_dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: The dtypes of such weights, and of their scales besides the floating-point ones: powers of two, by their exponent.
_WEIGHTS, _EXPONENTS = ("F8_E4M3", "F8_E5M2"), ("F8_E8M0", "U8")

#: What a module's tensors are called that belong to its quantized weight: scales of the weight, and of activations.
_SCALES = ("weight_scale_inv", "scale", "qscale_weight")
_OTHERS = ("activation_scale", "input_scale", "qscale_act")

#: Blocks where the configuration doesn't name any, as transformers takes them.
_USUAL_BLOCK = (128, 128)

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
        """(..., row blocks, column blocks) float32."""
        import numpy as np

        scales = self.scale.read(self.scale_name)
        if scales.dtype == np.uint8:
            scales = np.ldexp(np.float32(1.0), scales.astype(np.int32) - 127)
        if scales.size == 1:
            return scales.astype(np.float32).reshape((1,) * len(self.stored.shape))
        return scales.astype(np.float32)

    def products(self, raw: NDArray[Any], first: int, out: NDArray[Any]) -> NDArray[Any]:
        """What the rows from `first` on stand for, in `out`.

        Parameters
        ----------
        raw : (rows, columns) uint8, or (matrices, rows, columns) of a tensor of several, then from matrix `first` on
            As they are stored.
        out : float32, of the same shape
        """
        import numpy as np

        np.take(_values(self.stored.dtype), raw, out=out, mode="clip")
        if out.ndim == 2:
            multiply(out, self._scales, self.block, first)
        else:
            multiply(out, self._scales[first : first + len(out)] if self._scales.size > 1 else self._scales, self.block)
        return out

    def read(self, name: str) -> NDArray[Any]:
        """The weight, rounded to `dtype`."""
        import numpy as np

        raw = self.weight.read(name).view(np.uint8)
        whole = np.empty(raw.shape, numpy_dtype(self.dtype))
        rows = max(1, _AT_A_TIME * len(raw) // max(1, raw.size))
        with np.errstate(over="ignore"):
            for first in range(0, len(raw), rows):
                part = raw[first : first + rows]
                whole[first : first + rows] = self.products(part, first, np.empty(part.shape, np.float32))
        return whole

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


def dequantizing(base: Checkpoint, settings: Mapping[str, Any], dtype: str) -> Checkpoint:
    """The same checkpoint, whose weights with blockwise scales are read as what they stand for.

    Parameters
    ----------
    base : Checkpoint
    settings : Mapping
        The quantization_config; empty where there is none.
    dtype : str
        The model's, by PyTorch's name.
    """
    said = settings.get("weight_block_size", _USUAL_BLOCK)
    block = tuple(said) if isinstance(said, list | tuple) and all(type(n) is int and n > 0 for n in said) else ()
    found: dict[str, ScaledWeight] = {}
    for key in base.shard_of:
        if base.info(key).dtype in _WEIGHTS:
            weight = _scaled(base, key, (block[0], block[1]) if len(block) == 2 else None, DTYPE_OF[dtype])
            if weight is not None:
                found[key] = weight
    return base.reading(found) if found else base


def _scaled(base: Checkpoint, key: str, said: tuple[int, int] | None, dtype: str) -> ScaledWeight | None:
    """A weight with its scales; None where it has none, or such as fit no blocks of it."""
    owner, _, last = key.rpartition(".")
    names = [f"{key}_scale_inv"] + [f"{owner}.{name}" for name in _SCALES[1:] if last == "weight"]
    beside = [name for name in names if name in base]
    shape = base.info(key).shape
    if len(beside) != 1 or len(shape) < 2:
        return None
    scale = base.info(beside[0])
    block = block_of(shape, scale.shape, said)
    if block is None or scale.dtype not in (*FLOAT_NAMES, *_EXPONENTS):
        return None
    others = [f"{owner}.{name}" for name in _OTHERS if last == "weight"]
    companions = (beside[0], *(name for name in others if name in base))
    return ScaledWeight(key, base.source(key), base.source(beside[0]), beside[0], block, dtype, companions)


def companions_of(base: Checkpoint) -> set[str]:
    """Scales, and what else belongs to the weights that are read as what they stand for."""
    return {name for source in base.held.values() if isinstance(source, ScaledWeight) for name in source.companions}
