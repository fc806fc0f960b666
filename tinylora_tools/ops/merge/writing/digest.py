"""The bytes that a merge would write, by their digest: nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ....adapters.load import Adapter
from ....bases.base import Base, open_base
from ....core.block_sum import NumpyBlockAdder
from ....formats.tensors import TensorInfo
from ....workers import Workers
from ..plan import plan_merge
from ..words import Outcome, OutputFile
from .tensor import OpenSource, TensorJob
from .write import BLOCK_ELEMENTS, Buffers


def merged_digest(adapter: Adapter, base: str | Path | Base, *, threads: int) -> str:
    """sha256 of the sha256 of each weights file that a merge of the adapter writes, in the order of their names.

    The sums are formed on `threads` threads, as `merge` forms them; adapters that can't be merged raise as there.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        plan = plan_merge(open_base(base), [adapter], [1.0])
    buffers = Buffers(NumpyBlockAdder, BLOCK_ELEMENTS)
    digests = []
    with Workers(threads) as pool:
        for file in sorted(plan.files, key=lambda file: file.name):
            found = hashlib.sha256(file.header)
            for data in _data(file, pool, buffers, threads):
                found.update(data)
            digests.append(found.hexdigest())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _data(file: OutputFile, pool: Workers, buffers: Buffers, threads: int) -> Iterator[bytes]:
    """The bytes behind a file's header, in their order."""
    for info, outcome in file.tensors:
        yield from tensor_data(info, outcome, pool, buffers, threads)


def tensor_data(info: TensorInfo, outcome: Outcome, pool: Workers, buffers: Buffers, threads: int) -> Iterator[bytes]:
    """The bytes that a merge writes for one tensor, in pieces."""
    source = outcome.source
    if outcome.is_copy(info):
        yield from source.file.pieces(source.tensor.name)
    elif info.nbytes:
        yield from _summed(TensorJob(info, outcome, OpenSource(source.file), False), pool, buffers, threads)


def _summed(job: TensorJob, pool: Workers, buffers: Buffers, threads: int) -> Iterator[bytes]:
    """A tensor's blocks in turn, as many at a time as there are threads: memory stays that of a few blocks."""
    rows = max(1, BLOCK_ELEMENTS // job.columns)

    def block(first: int) -> bytes:
        adder, raw = buffers.of(job)
        return bytes(job.run(first, min(first + rows, job.rows), adder, *raw)[1])

    firsts: Sequence[int] = range(0, job.rows, rows)
    for at in range(0, len(firsts), threads):
        yield from pool.map(block, firsts[at : at + threads])
