"""Outputs that appear under their name only when they are complete.

A file or directory is written beside its final name (`workshop`), flushed to the disk (every file, then the
directories), and renamed; that is done here and nowhere else. Just before, the inputs that it was made from have to be
as they were when they were opened. What a killed run leaves behind is cleared, or gone on from, by the next run.
"""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from ..formats.peft.config import CONFIG_NAME
from ..inputs import require_unchanged
from ..ranks import ranks
from ..wording import argument
from .workshop import Workshop, workshop, workshop_of


@contextmanager
def staged_directory(output: Path, *, force: bool, inputs: Iterable[Path]) -> Iterator[Path]:
    """A directory to write into, which becomes `output` if the body ends without an exception.

    Raises
    ------
    OutputError
        If `output` exists (and `force` isn't given, or it is no model's directory), lies in an input or holds one,
        can't be written, or is being written by another run; and for a full disk, whenever that shows.
    MismatchError
        If an input was changed meanwhile.
    """
    inputs = list(inputs)
    check_output(output, force=force, inputs=inputs)
    with _workshop(output) as shop:
        check_output(output, force=force, inputs=inputs)  # now that no other run gives it its name
        whole = shop.new()
        whole.mkdir()
        yield whole
        _publish(shop, whole, output, force=force)


@contextmanager
def resumable_directory(output: Path, *, force: bool, inputs: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """A directory for parts of a long work, and one that is made of them, and of more, at the end; which becomes
    `output` if the body ends without an exception. Else the parts stay, for the next run to go on from.

    Raises
    ------
    OutputError, MismatchError
        As `staged_directory`.
    """
    inputs = list(inputs)
    check_output(output, force=force, inputs=inputs)
    with _workshop(output, "what is done so far is kept beside it") as shop:
        check_output(output, force=force, inputs=inputs)
        whole = shop.new()
        whole.mkdir()
        yield _shared_parts(shop), whole
        _publish(shop, whole, output, force=force)


@contextmanager
def staged_file(output: Path, *, force: bool) -> Iterator[Path]:
    """A path to write a new file at, which becomes `output` if the body ends without an exception.

    Raises
    ------
    OutputError
        If `output` exists (and `force` isn't given, or it is no file), can't be written, or is being written by another
        run; and for a full disk.
    MismatchError
        If an input was changed meanwhile.
    """
    check_file(output, force=force)
    with _workshop(output) as shop:
        check_file(output, force=force)
        whole = shop.new()
        yield whole
        _publish(shop, whole, output, force=force)


@contextmanager
def resumable_file(output: Path, *, force: bool) -> Iterator[tuple[Path, Path]]:
    """A directory for parts of a long work, and a path for the file that is made of them at the end.

    If the body ends without an exception, the file becomes `output`, and the directory goes. Else the directory stays,
    with what the body put there, for the next run to go on from.

    Raises
    ------
    OutputError
        As `staged_file`.
    MismatchError
        If an input was changed meanwhile.
    """
    check_file(output, force=force)
    with _workshop(output, "what is done so far is kept beside it") as shop:
        check_file(output, force=force)
        whole = shop.new()
        yield _shared_parts(shop), whole
        _publish(shop, whole, output, force=force)


def _shared_parts(shop: Workshop) -> Path:
    """The directory for parts: of several `ranks` the first one's."""
    return Path(ranks().gathered("" if ranks().number else str(shop.parts))[0])


@contextmanager
def _workshop(output: Path, kept: str = "nothing was kept") -> Iterator[Workshop]:
    output = output.absolute()
    if ranks().number:  # only the first of several writes the output
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Workshop(output, Path(elsewhere))
        return
    with _explained(output, kept):
        _make_parents(output)
        with workshop(output) as shop:
            yield shop


def _make_parents(output: Path) -> None:
    """Make the directories that the output is to lie in, and flush their names."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), output.parents))
    output.parent.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush(path.parent)


def _publish(shop: Workshop, whole: Path, output: Path, *, force: bool) -> None:
    """Flush what was made, and give it its name."""
    output = output.absolute()
    ranks().wait()  # until all have read and checked what they do
    if ranks().number:
        return
    require_unchanged(but=workshop_of(output))
    _sync_tree(whole)
    shop.give_name(whole, force=force)
    flush(output.parent)
    shop.remove_replaced()


def _require_removable(directory: Path) -> None:
    """Raise OutputError for a directory whose content this user may not remove: it would be left behind."""
    effective = os.access in os.supports_effective_ids
    for place, _, _ in os.walk(directory):
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective) and any(Path(place).iterdir()):
            raise OutputError(
                f"can't be replaced: you may not remove what is in {place}",
                where=directory,
                hint="Name another output, or have its owner remove it.",
            )


def check_file(output: Path, *, force: bool) -> None:
    """Raise OutputError if a new file can't become `output`, as `staged_file`: for who checks before long work."""
    with _explained(output):
        _refuse_link(output)
        if output.exists() and (not force or not output.is_file()):
            hint = replace_hint() if output.is_file() else "Name a file."
            raise OutputError("exists already", where=output, hint=hint)


def replace_hint() -> str:
    """What to do about an output that exists and may be replaced."""
    return f"Name another output, or replace it with {argument('force', True)}."


def require_ending(output: Path, ending: str = ".safetensors") -> None:
    """Raise OutputError for a file by a name that nothing would read it by."""
    if output.suffix != ending:
        raise OutputError(
            f"expected the ending {ending}", where=output, hint=f"Name it {output.name}{ending}, for example."
        )


def check_output(output: Path, *, force: bool, inputs: Iterable[Path]) -> None:
    """Raise OutputError if `output` may not be written as a directory."""
    keep_apart(output, inputs)
    with _explained(output):
        _refuse_link(output)
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return
        replaceable = output.is_dir() and _is_model(output)
    if not replaceable:
        kept = f", so {argument('force', True)} doesn't replace it" if force else ""
        what = f"exists already and is no model's directory{kept}"
        raise OutputError(what, where=output, hint="Name another output, or remove it yourself.")
    if not force:
        raise OutputError("exists already", where=output, hint=replace_hint())
    _require_removable(output)


def _refuse_link(output: Path) -> None:
    if output.is_symlink():
        hint = "Name what it leads to, or another output."
        raise OutputError("is a symbolic link, which isn't replaced", where=output, hint=hint)


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
    own = output, workshop_of(output)
    return path in output.parents or any(name in (path, *path.parents) for name in own)


def _sync_tree(top: Path) -> None:
    """Flush every file, then every directory, the innermost first: what has a name then has its bytes."""
    inside = sorted(top.rglob("*"), key=lambda path: len(path.parts), reverse=True)
    for path in (*(p for p in inside if not p.is_dir()), *(p for p in inside if p.is_dir()), top):
        flush(path)


def flush(path: Path) -> None:
    """Wait until a file, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
