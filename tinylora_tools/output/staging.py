"""Outputs that appear under their name only when they are complete.

A file or directory is written beside its final name, flushed to the disk (every file, then the directories), and
renamed; that is done here and nowhere else. What a killed run leaves behind has a name of its own, which starts with a
dot, and is cleared, or gone on from, by the next run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from ..formats.peft_config import CONFIG_NAME
from ..wording import argument


@contextmanager
def staged_directory(output: Path, *, force: bool, inputs: Iterable[Path]) -> Iterator[Path]:
    """A directory to write into, which becomes `output` if the body ends without an exception.

    Raises
    ------
    OutputError
        If `output` exists (and `force` isn't given, or it is no model's directory), lies in an input or holds one,
        can't be written, or is being written by another run; and for a full disk, whenever that shows.
    """
    check_output(output, force=force, inputs=inputs)
    output = output.absolute()
    partial, replaced = _meanwhile(output, "partial"), _meanwhile(output, "replaced")
    with _explained(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if replaced.exists() and not output.exists():
            replaced.rename(output)  # a run that was killed between the two renames below
        lock = _open_own(partial)
    try:
        _lock(lock, output)
        try:
            with _explained(output):
                _clear(partial)
                yield partial
                _sync_tree(partial)
                _put_in_place(partial, output, replaced)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


@contextmanager
def staged_file(output: Path, *, force: bool) -> Iterator[Path]:
    """A path to write a new file at, which becomes `output` if the body ends without an exception.

    Raises
    ------
    OutputError
        If `output` exists (and `force` isn't given, or it is a directory) or can't be written, and for a full disk.
    """
    check_file(output, force=force)
    with _explained(output):
        partial = _meanwhile(output.absolute(), "partial")
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            yield partial
            _sync(partial)
            partial.replace(output)
            _sync(output.absolute().parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def resumable_file(output: Path) -> Iterator[tuple[Path, Path]]:
    """A directory for parts of a long work, and a path for the file that is made of them at the end.

    If the body ends without an exception, the file becomes `output`, over an older one too, and the directory goes.
    Else the directory stays, with what the body put there, for the next run to go on from.

    Raises
    ------
    OutputError
        If `output` can't be written, or is being written by another run; and for a full disk.
    """
    output = output.absolute()
    parts = _meanwhile(output, "partial")
    kept = "what is done so far is kept beside it"
    with _explained(output, kept):
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = _open_own(parts)
    try:
        _lock(lock, output)
        whole = parts / "whole"
        with _explained(output, kept):
            whole.unlink(missing_ok=True)
            yield parts, whole
            _sync(whole)
            whole.replace(output)
            _sync(output.parent)
            shutil.rmtree(parts, ignore_errors=True)
    finally:
        os.close(lock)


def check_file(output: Path, *, force: bool) -> None:
    """Raise OutputError if a new file can't become `output`, as `staged_file`: for who checks before long work."""
    with _explained(output):
        if output.exists() and (not force or not output.is_file()):
            hint = replace_hint() if output.is_file() else "Name a file."
            raise OutputError("exists already", where=output, hint=hint)


def replace_hint() -> str:
    """What to do about an output that exists and may be replaced."""
    return f"Name another output, or replace it with {argument('force', True)}."


def require_ending(output: Path) -> None:
    """Raise OutputError for a safetensors file by a name that nothing would read it by."""
    if output.suffix != ".safetensors":
        raise OutputError(
            "expected the ending .safetensors", where=output, hint=f"Name it {output.name}.safetensors, for example."
        )


def check_output(output: Path, *, force: bool, inputs: Iterable[Path]) -> None:
    """Raise OutputError if `output` may not be written as a directory."""
    keep_apart(output, inputs)
    with _explained(output):
        if output.is_symlink():
            hint = "Name the directory that it leads to, or another output."
            raise OutputError("is a symbolic link, which isn't replaced", where=output, hint=hint)
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return
        replaceable = output.is_dir() and _is_model(output)
    if not replaceable:
        kept = f", so {argument('force', True)} doesn't replace it" if force else ""
        what = f"exists already and is no model's directory{kept}"
        raise OutputError(what, where=output, hint="Name another output, or remove it yourself.")
    if not force:
        raise OutputError("exists already", where=output, hint=replace_hint())


def keep_apart(output: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputError if `output` is an input, lies in one or holds one.

    The weights file of an adapter stands for its directory, which its configuration tells. Beside any other file there
    is room for an output.
    """
    resolved = _real(output)
    for named in inputs:
        path = named.parent if named.is_file() and (named.parent / CONFIG_NAME).is_file() else named
        source = _real(path)
        if resolved == source or source in resolved.parents or resolved in source.parents:
            relation = "is" if resolved == source else "lies inside" if source in resolved.parents else "holds"
            raise OutputError(
                f"the output {relation} the input {path}", where=output, hint="Name a directory apart from the inputs."
            )


def lies_in(output: Path, directory: Path) -> bool:
    """Whether a file, or the link that has its name, lies in a directory."""
    return _real(directory) in (_real(output.parent) / output.name).parents


def _real(path: Path) -> Path:
    """A path without links; one that leads in a circle stays, where `Path.resolve` raises."""
    return Path(os.path.realpath(path))


def _is_model(directory: Path) -> bool:
    return (directory / "config.json").is_file() or any(directory.glob("*.safetensors"))


def _meanwhile(output: Path, state: str) -> Path:
    """The name beside an output of what isn't whole yet, or is just being replaced."""
    return output.with_name(f".{output.name}.tinylora-{state}")


def _open_own(directory: Path) -> int:
    """Make a directory of ours, or find what a killed run left, and open it; a link in its place isn't followed."""
    if directory.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory))
    directory.mkdir(exist_ok=True)
    return os.open(directory, os.O_RDONLY)


def _lock(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            "another run is writing this output", where=output, hint="Wait for it, or name another output."
        ) from None


@contextmanager
def _explained(output: Path, kept: str = "nothing was kept") -> Iterator[None]:
    """Turn what the file system says about the output into an OutputError; what it says about inputs is passed on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"no space left on the device; {kept}",
                where=output,
                hint="Free some space, or write elsewhere.",
            ) from None
        if error.filename is None or not _belongs(Path(os.fsdecode(error.filename)).absolute(), output.absolute()):
            raise
        if isinstance(error, FileExistsError):
            raise OutputError(
                f"can't be written: {error.filename} is in the way",
                where=output,
                hint="Move that away, or name another output.",
            ) from None
        raise OutputError(
            f"can't be written ({error.strerror})", where=output, hint="Name a directory that you may write to."
        ) from None


def _belongs(path: Path, output: Path) -> bool:
    """Whether a path is the output's: what is to hold it, itself, or what stands for it in the meantime."""
    own = output, _meanwhile(output, "partial"), _meanwhile(output, "replaced")
    return path in output.parents or any(name in (path, *path.parents) for name in own)


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _put_in_place(partial: Path, output: Path, replaced: Path) -> None:
    if replaced.exists():
        shutil.rmtree(replaced)
    if output.is_dir() and any(output.iterdir()):
        output.rename(replaced)
    partial.rename(output)  # over nothing, or over an empty directory
    _sync(output.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_tree(top: Path) -> None:
    """Flush every file, then every directory, the innermost first: what has a name then has its bytes."""
    paths = sorted(top.rglob("*"), key=lambda path: len(path.parts), reverse=True)
    for path in (*(p for p in paths if not p.is_dir()), *(p for p in paths if p.is_dir()), top):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
