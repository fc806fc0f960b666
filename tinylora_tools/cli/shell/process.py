"""This process: its memory, the threads of the libraries below, its streams, and the signals that end it."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Have the C library keep blocks that are freed, for the next of their size.

    Factoring asks for the same few megabytes again and again, and glibc hands each such block back to the system, which
    clears it anew: half of the time went there. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_ARENA_MAX, 1)


def leave_threads_to_us() -> None:
    """Keep NumPy's products, where they run beside sums on threads of our own, to one thread each; said before NumPy is
    imported."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("VECLIB_MAXIMUM_THREADS", "1")


def may_start_threads() -> bool:
    """Whether the system allows this process another thread."""
    thread = threading.Thread(target=int)
    try:
        thread.start()
    except RuntimeError:
        return False
    thread.join()
    return True


def keep_standard_streams() -> None:
    """Open what of stdin, stdout and stderr is closed, as leading nowhere: else the first file that is opened gets its
    number, and what anybody prints. What an encoding lacks is printed as an escape."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_on_signals() -> None:
    """Have a request to end, and a terminal that is closed, clean up as an interrupt does, unless they are ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a shell sends SIGHUP again, while what was begun is removed
    sys.exit(128 + number)


def leave(code: object) -> NoReturn:
    """End at once, with the exit code of SystemExit, whoever runs still."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
