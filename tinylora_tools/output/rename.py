"""Renaming with Linux's renameat2: two names exchanged at once, or a name that must be free.

Elsewhere, and on file systems that can't, `os.rename` is left; both functions say whether they could.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_NOREPLACE, _EXCHANGE = 1, 2
_AT_FDCWD = -100
_UNABLE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places, so that there is no moment without either. False where that can't be had.

    Raises
    ------
    OSError
        If one isn't there, or may not be renamed.
    """
    return _renameat2(one, other, _EXCHANGE)


def rename_to_free(source: Path, target: Path) -> None:
    """Rename to a name that nothing has.

    Raises
    ------
    FileExistsError
        If something has it.
    OSError
        If it can't be done.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNABLE:
        return False
    if code == errno.EEXIST:
        raise FileExistsError(code, os.strerror(code), str(target))
    raise OSError(code, os.strerror(code), str(source), None, str(target))
