"""One tensor of a merge: read, summed or converted, and written by blocks of rows, and what that tells the report."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....bases.scaled_weight import ScaledWeight
from ....core.block_sum import BlockAdder, BlockSum, work_dtype
from ....core.lowrank import left_factor, squared_norm, training_dtype
from ....core.residual import BaseResidual, Triplets
from ....errors import MismatchError
from ....formats.renamed_file import RenamedFile
from ....formats.safetensors_file import OpenFile, SafetensorsFile
from ....formats.tensors import FLOAT_NAMES, TensorFile, TensorInfo, numpy_dtype
from ....formats.torch_file import TorchFile
from ....output.file_copy import read_into
from ....wording import argument
from ..words import Outcome, Update
from .target import Target


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """The residual of one adapter's factors on one weight; None where the factors are zero."""

    update: Update
    rho: float | None
    factors_dtype: str
    base_dtype: str


@dataclass(frozen=True, slots=True)
class TensorResult:
    """What the merge did to one tensor: ||delta||^2, the square of what rounding did to it, and ||W||^2."""

    tensor: str
    updates: tuple[Update, ...]
    delta: float
    error: float
    weight: float
    checks: tuple[BaseCheck, ...]


class OpenSource:
    """A tensor file that is read from by several threads."""

    def __init__(self, file: TensorFile) -> None:
        self._scaled = file if isinstance(file, ScaledWeight) else None
        file = file.weight if isinstance(file, ScaledWeight) else file
        self._file = file
        self._read = lru_cache(maxsize=2)(file.read)  # whole, where blocks can't be read by themselves
        stored = file.file if isinstance(file, RenamedFile) else file
        self._opened, self._ranges = None, None
        if isinstance(stored, SafetensorsFile):
            stored.remember()
            self._opened, self._ranges = stored.opened, stored.ranges
        if self._opened is None and self._ranges is None and isinstance(stored, (SafetensorsFile, TorchFile)):
            self._opened = OpenFile(os.open(stored.path, os.O_RDONLY))

    def _descriptor(self, tensor: TensorInfo) -> int | None:
        """Of the file that holds the tensor's bytes in their order; None where they have no place of their own."""
        return None if self._opened is None or not tensor.start else self._opened.descriptor

    def copy(
        self, tensor: TensorInfo, offset: int, size: int, target: Target, start: int, *, share: bool = False
    ) -> None:
        """Copy bytes of a tensor, from `offset` on, to a place in another file; or have the files share them."""
        descriptor = self._descriptor(tensor)
        if descriptor is not None:
            target.copy_from(descriptor, tensor.start + offset, start, size, share=share)
        elif self._ranges is not None:
            piece = memoryview(bytearray(size))
            self._ranges.read_into(piece, tensor.start + offset)
            target.write_at(piece, start)
        else:
            data = self._read(tensor.name).reshape(-1).view(np.uint8)
            target.write_at(data[offset : offset + size].data, start)

    def rows(self, tensor: TensorInfo, columns: int, first: int, last: int, buffer: NDArray[Any]) -> NDArray[Any]:
        """Rows of a tensor seen as (rows, columns): in `buffer`, or where they are in memory; those of a quantized one
        as the float32 products that it stands for."""
        if self._scaled is not None:
            size = (last - first) * columns
            raw = self._stored(self._scaled.stored, columns, first, last, buffer[4 * size :])
            out = buffer[: 4 * size].view(np.float32).reshape(-1, columns)
            return self._scaled.products(raw.view(np.uint8), first, out)
        return self._stored(tensor, columns, first, last, buffer)

    def _stored(self, tensor: TensorInfo, columns: int, first: int, last: int, buffer: NDArray[Any]) -> NDArray[Any]:
        descriptor = self._descriptor(tensor)
        if descriptor is None and self._ranges is None:
            return self._read(tensor.name).reshape(-1, columns)[first:last]
        dtype = numpy_dtype(tensor.dtype)
        width = columns * dtype.itemsize
        data = buffer[: (last - first) * width]
        if self._ranges is not None:
            self._ranges.read_into(data.data, tensor.start + first * width)
        elif descriptor is not None:
            read_into(descriptor, data.data, tensor.start + first * width)
        return data.view(dtype).reshape(-1, columns)


class TensorJob:
    """One tensor that is summed or converted, block by block."""

    def __init__(self, info: TensorInfo, outcome: Outcome, source: OpenSource, check: bool) -> None:
        self.info, self.outcome = info, outcome
        self._source = source
        # A vector is as good as a column: its blocks are as long. Several matrices are as good as one below the other.
        self.rows, self.columns = (
            (prod(info.shape[:-1]), info.shape[-1]) if len(info.shape) > 1 else (prod(info.shape), 1)
        )
        self.out_dtype = numpy_dtype(info.dtype)
        self.work_dtype = work_dtype(self.out_dtype)
        self._error = self._weight = 0.0
        self._checks: list[tuple[Update, str, Triplets, BaseResidual]] = []
        self._check = check
        self._ready = not outcome.updates
        self._lock = threading.Lock()

    def _load_factors(self) -> None:
        lefts, rights = [], []
        for update in self.outcome.updates:
            A, B = update.factors()
            wide_A, wide_BR = A.astype(np.float64), left_factor(B, update.R)  # (r, in), (out, r)
            left, right = (wide_A.T, wide_BR.T) if update.transposed else (wide_BR, wide_A)
            lefts.append(left)
            rights.append(right)
            if self._check:
                triplets = Triplets.from_factors(A, B, self.work_dtype)
                triplets = triplets.transposed() if update.transposed and not update.as_stored else triplets
                self._checks.append((update, training_dtype(A, B), triplets, BaseResidual(triplets)))
        left, right = np.hstack(lefts), np.vstack(rights)
        self._delta = squared_norm(left, right)
        self._left, self._right = left.astype(self.work_dtype), right.astype(self.work_dtype)

    def run(
        self, first: int, last: int, adder: BlockAdder, raw_in: NDArray[Any], raw_out: NDArray[Any]
    ) -> tuple[BlockSum, memoryview]:
        """Read, and sum or convert, the rows [first, last); their bytes are in `raw_out`."""
        with self._lock, np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused below
            if not self._ready:
                self._load_factors()
                self._ready = True
        W = self._source.rows(self.outcome.source.tensor, self.columns, first, last, raw_in)
        out = raw_out[: W.size * self.out_dtype.itemsize].view(self.out_dtype).reshape(W.shape)
        if self.outcome.updates:
            triplets = [triplets for _, _, triplets, _ in self._checks]
            block = adder.add(W, self._left[first:last], self._right, out, triplets=triplets, first=first)
            if not np.isfinite(block.error):
                self._refuse(first, last, W)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(out, W, casting="unsafe")
            if np.any(np.isinf(out) & np.isfinite(W)):
                self._refuse(first, last, W)
            block = BlockSum(0.0, 0.0, [])
        return block, out.reshape(-1).view(np.uint8).data

    def start_of(self, row: int) -> int:
        """Where in the file a row goes."""
        return self.info.start + row * self.columns * self.out_dtype.itemsize

    def _refuse(self, first: int, last: int, W: NDArray[Any]) -> None:
        if not np.all(np.isfinite(W)):
            what, hint = "the base's weights hold NaN or Inf", "Check the base: it was saved from a broken training."
        elif self.out_dtype.name == "float16":
            what = "the result overflows float16"
            hint = f"Merge with {argument('dtype', 'bfloat16')} or {argument('dtype', 'float32')}."
        else:
            what = "the result holds NaN or Inf"
            hint = f"Check the adapter's factors, P and v, and {argument('scale')}."
        raise MismatchError(f"rows {first} to {last - 1}: {what}", where=self.info.name, hint=hint)

    def collect(self, block: BlockSum) -> None:
        """Count a block's share; in the order of the blocks."""
        self._error += block.error
        self._weight += block.weight
        for (*_, residual), parts in zip(self._checks, block.residuals, strict=True):
            residual.add(parts)

    def result(self) -> TensorResult:
        """What became of the tensor, once every block is counted."""
        base_dtype = FLOAT_NAMES[self.outcome.source.tensor.dtype]
        checks = tuple(
            BaseCheck(update, residual.rho, factors_dtype, base_dtype)
            for update, factors_dtype, _, residual in self._checks
        )
        return TensorResult(self.info.name, self.outcome.updates, self._delta, self._error, self._weight, checks)
