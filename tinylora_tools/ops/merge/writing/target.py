"""Where a merge's bytes go: a file that is written through the page cache, or past it."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ....bases.held import memory_at_hand
from ....formats.safetensors_writer import SafetensorsWriter, write_all
from ....output.file_copy import copy_range, read_into
from ....workers import Task, Workers

#: Bytes that go past the cache at a time, which begin at multiples of this.
WINDOW = 2 << 20

#: Windows that are on their way to the disk at a time.
DEPTH = 4

#: The share of the memory at hand that a merged model may take of the page cache, where it would be found by who loads
#: it next: with the base, which takes as much, half of it. A larger one would push out what others have there, or its
#: own beginning.
_CACHED = 0.25


def only_passes(size: int) -> bool:
    """Whether so many bytes would only pass through the page cache, instead of staying there."""
    return size > _CACHED * memory_at_hand()


class Target:
    """A file that several threads write, in any order; a context, left once they are through, which writes the rest.

    Past the page cache it takes no copy in memory, and nothing that others have there has to make room. That goes by
    whole windows, which lie in memory until they are full. What belongs to none, at the beginning and at the end of the
    file, goes the usual way, as does what is left of windows whose other parts are shared with the base, and all of it
    where the file system can't do otherwise.

    Parameters
    ----------
    path : Path
        Of the file.
    file : SafetensorsWriter
        The same, open, with its header.
    head : int
        The header's bytes.
    writers : Workers
        Threads that wait for the disk.
    past_cache : bool
        Write past the page cache.
    """

    def __init__(self, path: Path, file: SafetensorsWriter, head: int, writers: Workers, *, past_cache: bool) -> None:
        self._file, self._writers = file, writers
        self._first, self._end = -(-head // WINDOW) * WINDOW, file.size // WINDOW * WINDOW
        self._lock = threading.Lock()  # never taken by the main thread, which an interrupt may reach with it
        self._open: dict[int, _Window] = {}
        self._free: list[_Window] = []
        self._sending: deque[Task[None]] = deque()
        self._direct = _opened_direct(path) if past_cache else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            direct, self._direct = self._direct, None
            # Of a run that fails: nobody else's file may get the number while they write. After a second interrupt
            # there may be more and more of them.
            while self._sending:
                with suppress(Exception):
                    self._sending.popleft().result()
            if direct is not None:
                os.close(direct)

    @property
    def unflushed(self) -> int | None:
        """A descriptor of the file, where what was written has to be sent to the disk."""
        return self._file.descriptor if self._direct is None else None

    def write_at(self, data: memoryview, start: int) -> None:
        """Write bytes to a place in the file."""
        values = np.frombuffer(data, np.uint8)

        def put(into: NDArray[Any], first: int) -> None:
            np.copyto(into, values[first : first + len(into)])

        def plain(first: int, size: int) -> None:
            self._file.write_at(values[first : first + size].data, start + first)

        self._by_windows(start, len(values), put, plain)

    def copy_from(self, source: int, source_start: int, start: int, size: int, *, share: bool) -> None:
        """Copy bytes of an open file to a place in this one; errors as `copy_range`."""
        copy = None if self._direct is None else self._copy
        copy_range(source, source_start, self._file.descriptor, start, size, share=share, copy=copy)

    def _copy(self, source: int, source_start: int, target: int, start: int, size: int) -> None:
        def put(into: NDArray[Any], first: int) -> None:
            read_into(source, into.data, source_start + first)

        def plain(first: int, size: int) -> None:
            copy_range(source, source_start + first, target, start + first, size)

        self._by_windows(start, size, put, plain)

    def _by_windows(
        self, start: int, size: int, put: Callable[[NDArray[Any], int], None], plain: Callable[[int, int], None]
    ) -> None:
        """Have bytes put into the windows they belong to, or written as they are: by the first of them, from 0 on."""
        if self._direct is None:
            plain(0, size)
            return
        done = 0
        while done < size:
            place = (start + done) // WINDOW * WINDOW
            count = min(size - done, place + WINDOW - start - done)
            if not self._first <= place < self._end:
                plain(done, count)
            else:
                offset = start + done - place
                window = self._window(place)
                put(window.values[offset : offset + count], done)
                self._filled(place, window, offset, count)
            done += count

    def _window(self, place: int) -> _Window:
        with self._lock:
            if place not in self._open:
                self._open[place] = self._free.pop() if self._free else _Window()
            return self._open[place]

    def _filled(self, place: int, window: _Window, offset: int, count: int) -> None:
        """Count bytes of a window, and send it off when it is full."""
        earlier = None
        with self._lock:
            window.pieces.append((offset, count))
            if sum(size for _, size in window.pieces) < WINDOW:
                return
            del self._open[place]
            if len(self._sending) >= DEPTH:
                earlier = self._sending.popleft()
            self._sending.append(self._writers.submit(self._send, place, window))
        if earlier is not None:
            earlier.result()

    def _send(self, place: int, window: _Window) -> None:
        done, direct = 0, self._direct
        while done < WINDOW and direct is not None:
            try:
                done += os.pwrite(direct, window.values[done:].data, place + done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break  # a file system that wants otherwise than all that are known
        write_all(self._file.descriptor, window.values[done:].data, place + done)
        window.pieces.clear()
        with self._lock:
            self._free.append(window)

    def _finish(self) -> None:
        while self._sending:
            self._sending.popleft().result()
        for place, window in self._open.items():
            for offset, count in window.pieces:
                self._file.write_at(window.values[offset : offset + count].data, place + offset)


class _Window:
    """Memory that begins with a page, as direct writes want it, and the parts of it that are filled."""

    def __init__(self) -> None:
        self.values = np.frombuffer(mmap.mmap(-1, WINDOW), np.uint8)
        self.pieces: list[tuple[int, int]] = []


def _opened_direct(path: Path) -> int | None:
    """A file, open for writes past the cache; None where the system or the file system has none."""
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | flag)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return None
