"""Where an output is made: a directory of ours beside it, in which one run works at a time.

::

    .NAME.tinylora-partial/
        lock        held by the run that works here
        whole.*     what is going to be the output
        parts/      of long work, for the next run to go on from
        replaced    what had the output's name, while names are changed on a file system that can't exchange them

The lock's file never becomes anything else, and who got the lock of a file that isn't the one at this path any more
takes the one that is. What a killed run left is known by these names; where there is anything else, the directory isn't
ours, and is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from .rename import exchange, rename_to_free

_LOCK, _WHOLE, _PARTS, _REPLACED = "lock", "whole.", "parts", "replaced"


class Workshop:
    """A workshop that this run holds: see `workshop`."""

    def __init__(self, output: Path, directory: Path) -> None:
        self._output, self._directory = output, directory
        self._made: os.stat_result | None = None

    @property
    def parts(self) -> Path:
        """A directory that stays where the work isn't finished."""
        path = self._directory / _PARTS
        path.mkdir(exist_ok=True)
        return path

    def new(self) -> Path:
        """A path for what is going to be the output: a name of its own, which no other run would use."""
        return self._directory / f"{_WHOLE}{os.urandom(8).hex()}"

    def give_name(self, whole: Path, *, force: bool) -> None:
        """Give what was made the output's name. Something whole has that name at every moment, if something had it.

        Raises
        ------
        FileExistsError
            If something has the name, but for an empty directory, and `force` isn't given.
        OSError
            If it can't be renamed.
        """
        output, self._made = self._output, whole.lstat()
        if whole.is_dir() and output.is_dir() and not any(output.iterdir()):
            whole.rename(output)  # over an empty directory, which is no file system's trouble
        elif not force or not os.path.lexists(output):
            rename_to_free(whole, output)
        elif not whole.is_dir():
            whole.replace(output)
        elif not exchange(whole, output):
            output.rename(self._directory / _REPLACED)
            whole.rename(output)  # if it isn't reached, the next run puts the old one back

    def remove_replaced(self) -> None:
        """Remove what had the output's name before.

        Raises
        ------
        OutputError
            If it can't be removed: the output itself is in place.
        """
        for path in self._of_a_run():
            try:
                _remove(path)
            except OSError as error:
                raise OutputError(
                    f"is in place, but what it replaced can't be removed ({error.strerror}): {path}",
                    where=self._output,
                    hint="Remove that yourself.",
                ) from None

    def _of_a_run(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.name.startswith(_WHOLE) or path.name == _REPLACED]

    def take_over(self) -> None:
        """Put in order what a killed run left: the output gets its name back, if that run took it."""
        replaced = self._directory / _REPLACED
        if os.path.lexists(replaced) and not os.path.lexists(self._output):
            replaced.rename(self._output)
        for path in self._of_a_run():
            emptied = self.new()
            path.rename(emptied)  # at once: should a lock not hold, its writer fails instead of publishing half of it
            _remove(emptied)

    def leave(self) -> None:
        """Remove what isn't parts of unfinished work, then the lock, and then the directory, if it is empty: whoever
        finds it in between takes its own lock in it."""
        if self._is_done():
            shutil.rmtree(self._directory / _PARTS, ignore_errors=True)
        with suppress(OSError):
            for path in self._of_a_run():
                if path.name != _REPLACED or os.path.lexists(self._output):
                    _remove(path)
            with suppress(OSError):
                (self._directory / _PARTS).rmdir()
            (self._directory / _LOCK).unlink()
            self._directory.rmdir()

    def _is_done(self) -> bool:
        """Whether what this run made has the output's name, whatever it was doing when it was asked to end."""
        try:
            return self._made is not None and os.path.samestat(self._made, self._output.lstat())
        except FileNotFoundError:
            return False


def workshop_of(output: Path) -> Path:
    """Where an output is made."""
    return output.with_name(f".{output.name}.tinylora-partial")


@contextmanager
def workshop(output: Path) -> Iterator[Workshop]:
    """The workshop of an output, held by this run alone and in order; left clean, but for parts of long work.

    Raises
    ------
    OutputError
        If another run works there.
    OSError
        If it can't be made; FileExistsError where something that isn't ours has its place.
    """
    directory = workshop_of(output)
    lock = _held(directory, output)
    found = Workshop(output, directory)
    try:
        found.take_over()
        yield found
    finally:
        try:
            found.leave()
        except BaseException:  # a request to end, in the middle of it
            if _is_at(lock, directory / _LOCK):
                found.leave()
            with suppress(OSError):
                directory.rmdir()
            raise
        finally:
            os.close(lock)


def _held(directory: Path, output: Path) -> int:
    """The lock, open and held."""
    path = directory / _LOCK
    while True:
        _make(directory)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the run that worked here has just left
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, path):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise OutputError(
                "another run is writing this output", where=output, hint="Wait for it, or name another output."
            ) from None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # of a run that has left meanwhile: another may hold the new one


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _make(directory: Path) -> None:
    """Make the directory, or find that it is ours."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        return
    try:
        state = directory.lstat()
        ours = stat.S_ISDIR(state.st_mode) and not _may_be_a_trap(directory, state)
        strange = next((path for path in directory.iterdir() if not _is_known(path.name)), None) if ours else directory
    except FileNotFoundError:  # the run that worked here has just left
        return
    if strange is not None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(strange))


def _is_known(name: str) -> bool:
    return name in (_LOCK, _PARTS, _REPLACED) or name.startswith(_WHOLE)


def _may_be_a_trap(directory: Path, state: os.stat_result) -> bool:
    """Whether another user has made it, where everybody may make directories, as in /tmp."""
    return bool(directory.parent.stat().st_mode & stat.S_ISVTX) and state.st_uid != os.geteuid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
