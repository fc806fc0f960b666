"""Stream the tensors of a merge plan to disk: byte ranges copied, row blocks summed, several at a time.

Memory is a few blocks a thread, whatever the model's size. The bytes don't depend on the number of threads or the size
of the blocks; what is summed up for the report is summed in a fixed order, so that doesn't depend on threads either.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..core.block_sum import BlockAdder, BlockSum, work_dtype
from ..core.lowrank import Array, left_factor, squared_norm, training_dtype
from ..core.residual import BaseResidual, Triplets
from ..errors import MismatchError
from ..formats.safetensors_file import SafetensorsFile
from ..formats.tensors import FLOAT_NAMES, TensorFile, TensorInfo, numpy_dtype
from .file_copy import copy_range, read_into, write_all
from .merge_model import Outcome, OutputFile, Update
from .progress import Progress

#: Elements of a block: enough that the calls cost nothing, few enough that its buffers stay in the cache.
BLOCK_ELEMENTS = 450_000

#: Blocks that one task sums: each handing over between threads costs as much as a small one.
TASK_BLOCKS = 4

#: Bytes that one task copies. The file is locked meanwhile, and the sums of other threads wait to be written.
COPY_BYTES = 8 << 20

#: Bytes after which a file is sent to the disk, while the next are computed.
FLUSH_BYTES = 64 << 20

_flush = getattr(os, "fdatasync", os.fsync)

MakeAdder = Callable[[int, np.dtype[Any]], BlockAdder]


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """The residual of one adapter's factors on one weight; None where the factors are zero."""

    update: Update
    rho: float | None
    factors_dtype: str
    base_dtype: str


@dataclass(frozen=True, slots=True)
class TensorResult:
    """What the merge did to one tensor: ||delta||^2, and the square of what rounding did to it."""

    tensor: str
    updates: tuple[Update, ...]
    delta: float
    error: float
    checks: tuple[BaseCheck, ...]


class MergeWriter:
    """Writes planned files into a directory; a context, which stops its threads when it is left.

    Parameters
    ----------
    directory : Path
    threads : int
    make_adder : callable
        Called once a thread and dtype, with the size of a block: see `core.block_sum`.
    check_base : bool
        Whether factors are checked against the weights in passing.
    progress : Progress
    block_elements : int
    """

    def __init__(
        self,
        directory: Path,
        *,
        threads: int,
        make_adder: MakeAdder,
        check_base: bool,
        progress: Progress,
        block_elements: int = BLOCK_ELEMENTS,
    ) -> None:
        self.results: list[TensorResult] = []
        self._directory = directory
        self._make_adder = make_adder
        self._check_base = check_base
        self._progress = progress
        self._block_elements = block_elements
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="merge")
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._flushing: Future[None] | None = None
        self._unflushed = 0
        self._tasks: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()
        self._most_tasks = 4 * threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._flusher.shutdown(cancel_futures=True)

    def write(self, file: OutputFile) -> None:
        """Write one file and flush it to the disk.

        Raises
        ------
        MismatchError
            If a result isn't finite.
        """
        with ExitStack() as stack:
            target = os.open(self._directory / file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            stack.callback(os.close, target)
            write_all(target, memoryview(file.header), 0)
            _reserve(target, file.size)
            try:
                self._write_tensors(file, target, stack)
            finally:
                self._cancel()  # nothing is left to cancel but after an error: before its files are closed
            os.fsync(target)

    def _write_tensors(self, file: OutputFile, target: int, stack: ExitStack) -> None:
        sources: dict[Path, _OpenSource] = {}
        for info, outcome in file.tensors:
            path = outcome.source.file.path
            if path not in sources:
                sources[path] = stack.enter_context(_OpenSource(outcome.source.file))
            if outcome.updates or outcome.source.tensor.dtype != info.dtype:
                self._sum(_TensorJob(info, outcome, sources[path], target, self._check_base))
            else:
                self._copy(info, outcome.source.tensor, sources[path], target)
        while self._tasks:
            self._finish_oldest()

    def _cancel(self) -> None:
        for future, _ in self._tasks:
            future.cancel()
        wait([future for future, _ in self._tasks])
        self._tasks.clear()
        if self._flushing is not None:
            wait([self._flushing])
            self._flushing = None

    def _submit(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        while len(self._tasks) >= self._most_tasks:
            self._finish_oldest()
        self._tasks.append((self._pool.submit(work), then))

    def _finish_oldest(self) -> None:
        future, then = self._tasks[0]
        result = future.result()
        self._tasks.popleft()
        then(result)

    def _copy(self, info: TensorInfo, tensor: TensorInfo, source: _OpenSource, target: int) -> None:
        for done in range(0, info.nbytes, COPY_BYTES):
            size = min(COPY_BYTES, info.nbytes - done)
            self._submit(
                partial(source.copy, tensor, done, size, target, info.start + done),
                partial(self._written, target, size),
            )

    def _sum(self, job: _TensorJob) -> None:
        if not job.info.nbytes:
            return
        rows = TASK_BLOCKS * max(1, self._block_elements // job.columns)
        for first in range(0, job.rows, rows):
            last = min(first + rows, job.rows)
            self._submit(partial(self._run_blocks, job, first, last), partial(self._collect, job, first, last))

    def _run_blocks(self, job: _TensorJob, first: int, last: int) -> list[BlockSum]:
        size = max(self._block_elements, job.columns)
        if getattr(self._local, "size", 0) < size:
            self._local.size, self._local.adders = size, {}
            self._local.raw = np.empty(8 * size, np.uint8), np.empty(8 * size, np.uint8)
        adders = self._local.adders
        if job.work_dtype not in adders:
            adders[job.work_dtype] = self._make_adder(size, job.work_dtype)
        adder, raw = adders[job.work_dtype], self._local.raw
        rows = max(1, self._block_elements // job.columns)
        return [job.run(row, min(row + rows, last), adder, *raw) for row in range(first, last, rows)]

    def _collect(self, job: _TensorJob, first: int, last: int, blocks: list[BlockSum]) -> None:
        for block in blocks:
            job.collect(block)
        if last == job.rows and job.outcome.updates:
            self.results.append(job.result())
        self._written(job.target, (last - first) * job.columns * job.out_dtype.itemsize)

    def _written(self, target: int, size: int, _: object = None) -> None:
        self._progress.advance(size)
        self._unflushed += size
        if self._unflushed >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._unflushed = 0
            self._flushing = self._flusher.submit(_flush, target)


def _reserve(target: int, size: int) -> None:
    """Give a file its size, and its blocks where the file system can: a full disk shows now, and writing is quicker."""
    try:
        os.posix_fallocate(target, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.ftruncate(target, size)


class _OpenSource:
    """A tensor file that is read from by several threads."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        if isinstance(self._file, SafetensorsFile):
            self._descriptor = os.open(self._file.path, os.O_RDONLY)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def copy(self, tensor: TensorInfo, offset: int, size: int, target: int, start: int) -> None:
        """Copy bytes of a tensor, from `offset` on, to a place in another file."""
        if self._descriptor is not None:
            copy_range(self._descriptor, tensor.start + offset, target, start, size)
        else:
            data = self._file.read(tensor.name).reshape(-1).view(np.uint8)
            write_all(target, data[offset : offset + size].data, start)

    def rows(self, tensor: TensorInfo, columns: int, first: int, last: int, buffer: Array) -> Array:
        """Rows of a tensor seen as (rows, columns): in `buffer`, or where they are in memory."""
        if self._descriptor is None:
            return self._file.read(tensor.name).reshape(-1, columns)[first:last]
        dtype = numpy_dtype(tensor.dtype)
        width = columns * dtype.itemsize
        data = buffer[: (last - first) * width]
        read_into(self._descriptor, data.data, tensor.start + first * width)
        return data.view(dtype).reshape(-1, columns)


class _TensorJob:
    """One tensor that is summed or converted, block by block."""

    def __init__(self, info: TensorInfo, outcome: Outcome, source: _OpenSource, target: int, check: bool) -> None:
        self.info, self.outcome = info, outcome
        self._source, self.target = source, target
        # A vector is as good as a column: its blocks are as long.
        self.rows, self.columns = (info.shape[0], prod(info.shape[1:])) if info.shape else (1, 1)
        self.out_dtype = numpy_dtype(info.dtype)
        self.work_dtype = work_dtype(self.out_dtype)
        self._error = 0.0
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
                triplets = triplets.transposed() if update.transposed else triplets
                self._checks.append((update, training_dtype(A, B), triplets, BaseResidual(triplets)))
        left, right = np.hstack(lefts), np.vstack(rights)
        self._delta = squared_norm(left, right)
        self._left, self._right = left.astype(self.work_dtype), right.astype(self.work_dtype)

    def run(self, first: int, last: int, adder: BlockAdder, raw_in: Array, raw_out: Array) -> BlockSum:
        """Read, sum or convert, and write the rows [first, last)."""
        with self._lock:
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
            block = BlockSum(0.0, [])
        start = self.info.start + first * self.columns * self.out_dtype.itemsize
        write_all(self.target, out.reshape(-1).view(np.uint8).data, start)
        return block

    def _refuse(self, first: int, last: int, W: Array) -> None:
        if not np.all(np.isfinite(W)):
            what, hint = "the base's weights hold NaN or Inf", "Check the base: it was saved from a broken training."
        elif self.out_dtype.name == "float16":
            what, hint = "the result overflows float16", "Merge with --dtype bfloat16 or --dtype float32."
        else:
            what, hint = "the result holds NaN or Inf", "Check the adapter: its factors, P or v are broken."
        raise MismatchError(f"rows {first} to {last - 1}: {what}", where=self.info.name, hint=hint)

    def collect(self, block: BlockSum) -> None:
        """Count a block's share; in the order of the blocks."""
        self._error += block.error
        for (*_, residual), parts in zip(self._checks, block.residuals, strict=True):
            residual.add(parts)

    def result(self) -> TensorResult:
        """What became of the tensor, once every block is counted."""
        base_dtype = FLOAT_NAMES[self.outcome.source.tensor.dtype]
        checks = tuple(
            BaseCheck(update, residual.rho, factors_dtype, base_dtype)
            for update, factors_dtype, _, residual in self._checks
        )
        return TensorResult(self.info.name, self.outcome.updates, self._delta, self._error, checks)
