"""Copy a range of bytes from one file to another, in the kernel where it can.

Linux's FICLONERANGE has both files share whole blocks that lie alike in them, on file systems that can (XFS, Btrfs):
nothing is copied, and nothing takes space. Its `copy_file_range` leaves it to the file system how to copy, and its
`sendfile` at least keeps the bytes out of user space; elsewhere they are read and written.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable

from ..errors import OutputError
from ..formats.safetensors_writer import write_all

_UNABLE = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF}
_FICLONERANGE = 0x4020940D

#: Bytes of a block: those of XFS and Btrfs, as they are usually made.
BLOCK = 4096

_CALL_BYTES = 1 << 30  # larger counts are refused or cut short by some kernels
_BUFFER_BYTES = 4 << 20


def copy_range(
    source: int,
    source_start: int,
    target: int,
    target_start: int,
    size: int,
    *,
    share: bool = False,
    copy: Callable[[int, int, int, int, int], None] | None = None,
) -> None:
    """Copy `size` bytes between two open files, at the given offsets; with `share` not at all, where blocks lie alike.

    `copy` is called, with the same five, for what can't be shared, instead of the kernel.

    Raises
    ------
    OSError
        From the file system; EIO if the source ends early.
    OutputError
        With `share`, if the file system can't have files share their blocks.
    """
    first = -target_start % BLOCK
    shared = (size - first) // BLOCK * BLOCK
    if (source_start - target_start) % BLOCK or shared <= 0:
        first = shared = 0
    elif not _shared(source, source_start + first, target, target_start + first, shared):
        if share:
            raise OutputError("the file system can't have the base and the merged model share their bytes")
        first = shared = 0
    last, copy = first + shared, copy or _copy
    copy(source, source_start, target, target_start, first)
    copy(source, source_start + last, target, target_start + last, size - last)


def _copy(source: int, source_start: int, target: int, target_start: int, size: int) -> None:
    done = 0
    if sys.platform == "linux":
        done = _with_copy_file_range(source, source_start, target, target_start, size)
        if done < size:
            done += _with_sendfile(source, source_start + done, target, target_start + done, size - done)
    while done < size:
        data = os.pread(source, min(_BUFFER_BYTES, size - done), source_start + done)
        if not data:
            raise OSError(errno.EIO, "the source ended early; was it changed during the merge?")
        write_all(target, memoryview(data), target_start + done)
        done += len(data)


def _shared(source: int, source_start: int, target: int, target_start: int, size: int) -> bool:
    """Have the files share whole blocks; False where that can't be done."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, source_start, size, target_start))
    except OSError as error:
        if error.errno in _UNABLE | {errno.ENOTTY, errno.ETXTBSY}:
            return False
        raise
    return True


if sys.platform == "linux":

    def _with_copy_file_range(source: int, source_start: int, target: int, target_start: int, size: int) -> int:
        """How many bytes copy_file_range could copy; some file systems say 0 instead of failing."""
        done = 0
        while done < size:
            count = min(_CALL_BYTES, size - done)
            try:
                copied = os.copy_file_range(source, target, count, source_start + done, target_start + done)
            except OSError as error:
                if error.errno in _UNABLE:
                    return done
                raise
            if copied == 0:
                return done
            done += copied
        return done

    def _with_sendfile(source: int, source_start: int, target: int, target_start: int, size: int) -> int:
        """How many bytes sendfile could copy. It writes at the target's own position, so it gets a descriptor of its
        own: other threads write to the same file."""
        done = 0
        try:
            with open(f"/proc/self/fd/{target}", "r+b", buffering=0) as own:  # noqa: PTH123
                own.seek(target_start)
                while done < size:
                    copied = os.sendfile(own.fileno(), source, source_start + done, min(_CALL_BYTES, size - done))
                    if copied == 0:
                        break
                    done += copied
        except OSError as error:
            if error.errno not in _UNABLE | {errno.ENOENT, errno.EACCES}:
                raise
        return done


def read_into(source: int, buffer: memoryview, start: int) -> None:
    """Fill `buffer` from `start` on.

    Raises
    ------
    OSError
        EIO if the source ends early.
    """
    buffer = buffer.cast("B")
    while buffer:
        count = os.preadv(source, [buffer], start)
        if count == 0:
            raise OSError(errno.EIO, "the source ended early; was it changed during the merge?")
        buffer, start = buffer[count:], start + count
