"""How this process computes: its memory, and the threads of the libraries below."""

from __future__ import annotations

import ctypes
import os

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
