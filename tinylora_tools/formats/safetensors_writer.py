"""New safetensors files: the header first, then tensors at their places, one in memory at a time.

Nothing is flushed to the disk here: who gives an output its name does that (`output.staging`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .safetensors_file import build_header
from .tensors import TensorInfo, dtype_name

#: A tensor that is going to be written: its name, its dtype as safetensors names it, its shape.
Entry = tuple[str, str, Sequence[int]]


class SafetensorsWriter:
    """A new file, open for tensors in any order and from several threads; a context.

    Parameters
    ----------
    path : Path
        Of a file that isn't there yet.
    header : bytes
        Everything before the data.
    places : Mapping[str, TensorInfo]
        Where each tensor goes: offsets count from the start of the file.
    reserve : bool
        Take the file's space at once.

    Raises
    ------
    FileExistsError
        If there is a file already.
    OSError
        For a full disk, before anything is computed where the file system can tell.
    """

    def __init__(self, path: Path, header: bytes, places: Mapping[str, TensorInfo], *, reserve: bool = True) -> None:
        self.places = places
        self.size = max((info.end for info in places.values()), default=len(header))
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            self.write_at(memoryview(header), 0)
            if reserve:
                _reserve(self.descriptor, self.size)
            else:
                os.ftruncate(self.descriptor, self.size)
        except BaseException:
            os.close(self.descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Write one tensor to its place.

        Raises
        ------
        ValueError
            If the array isn't what the header says.
        """
        place = self.places[name]
        if values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("<"))
        if (dtype_name(values.dtype), values.shape) != (place.dtype, place.shape):
            raise ValueError(f"{name} is {values.dtype.name} {values.shape}, the header says {place}")
        if place.nbytes:
            self.write_at(np.asarray(values, order="C").reshape(-1).view(np.uint8).data, place.start)

    def write_at(self, data: memoryview, start: int) -> None:
        """Write bytes to a place in the file."""
        write_all(self.descriptor, data, start)


def write_tensors(
    path: Path,
    entries: Iterable[Entry],
    values: Iterable[tuple[str, NDArray[Any]]],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a file whose tensors follow each other as `entries` says, from `values` that come one by one in any order.

    Returns
    -------
    int
        The file's size in bytes.

    Raises
    ------
    FileExistsError
        If there is a file already.
    ValueError
        If `values` lacks a tensor, or has one of another dtype or shape.
    """
    header, places = build_header(entries, metadata)
    with SafetensorsWriter(path, header, places) as file:
        missing = set(places)
        for name, array in values:
            file.write(name, array)
            missing.discard(name)
        if missing:
            raise ValueError(f"no values came for {min(missing)}")
        return file.size


def write_file(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> int:
    """Write arrays to a new file, in the order given; returns and raises as `write_tensors`."""
    entries = [(name, dtype_name(array.dtype), array.shape) for name, array in tensors.items()]
    return write_tensors(path, entries, tensors.items(), metadata)


def write_all(target: int, data: memoryview, start: int) -> None:
    """Write all of `data` at `start`; pwrite may write less at a time."""
    data = data.cast("B")
    while data:
        count = os.pwrite(target, data, start)
        data, start = data[count:], start + count


def _reserve(target: int, size: int) -> None:
    """Give a file its size, and its blocks where the file system can: a full disk shows now, and writing is quicker."""
    try:
        os.posix_fallocate(target, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.ftruncate(target, size)
