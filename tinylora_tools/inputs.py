"""Files that are read: opened in one way, and remembered, so that who writes what came of them can tell that they are
still as they were."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, NamedTuple, ParamSpec, TypeVar

from .errors import FormatError, MismatchError

P = ParamSpec("P")
T = TypeVar("T")


class FileState(NamedTuple):
    """What changes when a file is written or replaced."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, state: os.stat_result) -> FileState:
        return cls(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


#: What has been opened since the outermost `watching_inputs` began.
_watched: ContextVar[dict[Path, FileState] | None] = ContextVar("_watched", default=None)


@contextmanager
def watching_inputs() -> Iterator[None]:
    """Remember the files that are opened meanwhile; inside another one, that one goes on."""
    if _watched.get() is not None:
        yield
        return
    token = _watched.set({})
    try:
        yield
    finally:
        _watched.reset(token)


def watches_inputs(function: Callable[P, T]) -> Callable[P, T]:
    """A function in `watching_inputs`."""

    @functools.wraps(function)
    def watched(*arguments: P.args, **given: P.kwargs) -> T:
        with watching_inputs():
            return function(*arguments, **given)

    return watched


@contextmanager
def no_inputs() -> Iterator[None]:
    """For what is written of a report: nothing that was read before counts."""
    token = _watched.set(None)
    try:
        yield
    finally:
        _watched.reset(token)


def open_input(path: Path) -> BinaryIO:
    """A file, open for reading, and remembered.

    Raises
    ------
    FormatError
        For what is no file: a named pipe, which nobody may ever write to, or a device.
    OSError
        If it can't be opened.
    """
    # Nothing here closes what a file owns already: where a signal comes between, that would be closed twice.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(21, os.strerror(21), str(path))
        raise FormatError("is no file, but a pipe or a device", where=path, hint="Write it to a file, and name that.")
    remember(path, FileState.of(state))
    return os.fdopen(descriptor, "rb")


def read_input(path: Path) -> bytes:
    """All of a file; raises as `open_input`."""
    with open_input(path) as file:
        return file.read()


def is_there(path: Path) -> bool:
    """Whether anything has that name, if only a link that leads nowhere: who opens it says what is wrong with it."""
    return os.path.lexists(path)


def remember(path: Path, state: FileState) -> None:
    """Count a file among the inputs, as it was when it was opened: the first time counts."""
    watched = _watched.get()
    if watched is not None:
        watched.setdefault(Path(os.path.abspath(path)), state)  # noqa: PTH100 - links stay


def require_unchanged(*, but: Path) -> None:
    """Raise MismatchError if a file that was opened isn't as it was; `but` a directory, which is being written."""
    for path, before in (_watched.get() or {}).items():
        if but in path.parents:
            continue
        try:
            now = FileState.of(path.stat())
        except OSError as error:
            raise _changed(path, f"it is gone ({error.strerror})") from None
        if now != before:
            raise _changed(path, _difference(before, now))


def _difference(before: FileState, now: FileState) -> str:
    if now.size != before.size:
        return f"it had {before.size:,} bytes, and has {now.size:,}"
    return "another file has its name" if now[:2] != before[:2] else "it was written to"


def _changed(path: Path, how: str) -> MismatchError:
    return MismatchError(
        f"was changed while this run used it: {how}",
        where=path,
        hint="Nothing was written. Run the command again when nothing else writes there.",
    )
