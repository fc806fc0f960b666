"""Stream the tensors of a merge plan to disk: byte ranges copied, row blocks summed, several at a time.

Memory is a few blocks a thread, whatever the model's size. The bytes don't depend on the number of threads or the size
of the blocks; what is summed up for the report is summed in a fixed order, so that doesn't depend on threads either.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ....core.block_sum import BlockAdder, BlockSum
from ....formats.safetensors_writer import SafetensorsWriter
from ....formats.tensors import TensorInfo
from ....progress import Progress
from ....workers import Task, Workers
from ..words import OutputFile
from .target import DEPTH, Target
from .tensor import OpenSource, TensorJob, TensorResult

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


class _Job(NamedTuple):
    """Something to do in a thread, the bytes that it writes, and what is to be done with its result."""

    size: int
    work: Callable[[], Any]
    then: Callable[[Any], None]


class _Copy(NamedTuple):
    """A tensor that stays as it is: where it goes, and where it comes from."""

    info: TensorInfo
    tensor: TensorInfo
    source: OpenSource


class MergeWriter:
    """Writes planned files into a directory; a context, which stops its threads when it is left, and waits for what is
    on its way to the disk: an OSError of a disk that is full may show only then.

    Parameters
    ----------
    directory : Path
    threads : int
    make_adder : callable
        Called once a thread and dtype, with the size of a block: see `core.block_sum`.
    check_base : bool
        Whether factors are checked against the weights in passing.
    progress : Progress
    share : bool
        Have the base's files and the new ones share what doesn't change.
    past_cache : bool
        Write past the page cache, which the files would only pass through.
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
        share: bool = False,
        past_cache: bool = False,
        block_elements: int = BLOCK_ELEMENTS,
    ) -> None:
        self.results: list[TensorResult] = []
        self._directory = directory
        self._buffers = Buffers(make_adder, block_elements)
        self._check_base = check_base
        self._progress = progress
        self._share = share
        self._block_elements = block_elements
        self._workers = Workers(threads)
        self._flusher = Workers(1)
        self._past_cache, self._writers = past_cache, Workers(DEPTH if past_cache else 0)
        self._flushing: Task[None] | None = None
        self._unflushed = 0
        self._tasks: deque[tuple[Task[Any], Callable[[Any], None]]] = deque()
        self._most_tasks = 4 * threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._workers.close(cancel=error is not None)
        self._writers.close(cancel=False)  # after the others, which wait for what they hand over
        self._flusher.close(cancel=False)
        if error is None and self._flushing is not None:
            self._flushing.result()  # an error of the disk is told once, to whoever asked

    def write(self, file: OutputFile) -> None:
        """Write one file. Most of it is sent to the disk meanwhile; who gives it its name sees to the rest.

        Raises
        ------
        MismatchError
            If a result isn't finite.
        OSError
            For a full disk.
        """
        path = self._directory / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        places = {info.name: info for info, _ in file.tensors}
        with SafetensorsWriter(path, file.header, places, reserve=not self._share) as opened:
            self._progress.advance(len(file.header))
            with Target(path, opened, len(file.header), self._writers, past_cache=self._past_cache) as target:
                try:
                    self._write_tensors(file, target)
                except BaseException:
                    self._workers.close(cancel=True)  # before the file is closed
                    raise

    def _write_tensors(self, file: OutputFile, target: Target) -> None:
        sources: dict[int, OpenSource] = {}
        jobs: list[TensorJob | _Copy] = []
        copies: list[TensorJob | _Copy] = []
        for info, outcome in sorted(file.tensors, key=lambda one: one[0].start):
            key = id(outcome.source.file)
            source = sources[key] = sources.get(key) or OpenSource(outcome.source.file)
            if not outcome.is_copy(info):
                jobs.append(TensorJob(info, outcome, source, self._check_base))
            elif info.nbytes < COPY_BYTES:  # in its place among the sums, so that what is written follows each other
                jobs.append(_Copy(info, outcome.source.tensor, source))
            else:
                copies.append(_Copy(info, outcome.source.tensor, source))
        summed, copied = (sum(one.info.nbytes for one in some) for some in (jobs, copies))
        for one in _side_by_side(self._pieces(jobs, target), summed, self._pieces(copies, target), copied):
            self._submit(one)
        while self._tasks:
            self._finish_oldest()

    def _submit(self, job: _Job) -> None:
        while len(self._tasks) >= self._most_tasks:
            self._finish_oldest()
        self._tasks.append((self._workers.submit(job.work), job.then))

    def _finish_oldest(self) -> None:
        task, then = self._tasks.popleft()
        then(task.result())

    def _pieces(self, whole: list[TensorJob | _Copy], target: Target) -> Iterator[_Job]:
        whole.reverse()  # from which the next is popped: what is done with is let go
        while whole:
            one = whole.pop()
            if not one.info.nbytes:
                continue
            yield from self._copies(one, target) if isinstance(one, _Copy) else self._sums(one, target)

    def _copies(self, copy: _Copy, target: Target) -> Iterator[_Job]:
        info, tensor, source = copy
        done = 0
        while done < info.nbytes:
            start = info.start + done
            size = min(COPY_BYTES - start % COPY_BYTES, info.nbytes - done)  # so that pieces end with blocks
            work = partial(source.copy, tensor, done, size, target, start, share=self._share)
            yield _Job(size, work, partial(self._written, target, size))
            done += size

    def _sums(self, job: TensorJob, target: Target) -> Iterator[_Job]:
        rows = TASK_BLOCKS * max(1, self._block_elements // job.columns)
        for first in range(0, job.rows, rows):
            last = min(first + rows, job.rows)
            size = (last - first) * job.columns * job.out_dtype.itemsize
            work = partial(self._run_blocks, job, target, first, last)
            yield _Job(size, work, partial(self._collect, job, target, first, last))

    def _run_blocks(self, job: TensorJob, target: Target, first: int, last: int) -> list[BlockSum]:
        adder, raw = self._buffers.of(job)
        rows = max(1, self._block_elements // job.columns)
        sums = []
        for row in range(first, last, rows):
            block, data = job.run(row, min(row + rows, last), adder, *raw)
            target.write_at(data, job.start_of(row))
            sums.append(block)
        return sums

    def _collect(self, job: TensorJob, target: Target, first: int, last: int, blocks: list[BlockSum]) -> None:
        for block in blocks:
            job.collect(block)
        if last == job.rows and job.outcome.updates:
            self.results.append(job.result())
        self._written(target, (last - first) * job.columns * job.out_dtype.itemsize)

    def _written(self, target: Target, size: int, _: object = None) -> None:
        self._progress.advance(size)
        if target.unflushed is None:
            return
        self._unflushed += size
        if self._unflushed >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            if self._flushing is not None:
                self._flushing.result()
            self._unflushed = 0
            self._flushing = self._flusher.submit(_send, os.dup(target.unflushed))


def _send(descriptor: int) -> None:
    """Send what was written to the disk, by a descriptor that is closed then: the file itself may be, before."""
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


class Buffers:
    """Each thread's own buffers and adders: for blocks of so many elements, or of one row where that is longer."""

    def __init__(self, make_adder: MakeAdder, elements: int) -> None:
        self._make_adder, self._elements = make_adder, elements
        self._local = threading.local()

    def of(self, job: TensorJob) -> tuple[BlockAdder, tuple[NDArray[Any], NDArray[Any]]]:
        """What this thread sums the blocks of a tensor with: an adder, and bytes for what is read and what comes of
        it."""
        local, size = self._local, max(self._elements, job.columns)
        if getattr(local, "size", 0) < size:
            local.size, local.adders = size, {}
            local.raw = np.empty(8 * size, np.uint8), np.empty(8 * size, np.uint8)
        if job.work_dtype not in local.adders:
            local.adders[job.work_dtype] = self._make_adder(size, job.work_dtype)
        return local.adders[job.work_dtype], local.raw


def _side_by_side(sums: Iterator[_Job], summed: int, copies: Iterator[_Job], copied: int) -> Iterator[_Job]:
    """Both kinds of tasks, in step by their shares of the bytes: a copy keeps the file locked, and sums that are
    written would wait for it, but not those that are still computed."""
    done = {True: 0, False: 0}
    while True:
        is_copy = done[True] * summed < done[False] * copied or done[False] >= summed
        task = next(copies if is_copy else sums, None)
        if task is None:
            yield from sums
            yield from copies
            return
        done[is_copy] += task.size
        yield task
