"""Adapters of any kind where PEFT's files are wanted: others by way of a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from ..formats.checkpoint import is_checkpoint
from ..formats.packed import packed_at
from ..formats.peft_adapter import WEIGHTS_NAMES, read_adapter
from ..output.staging import keep_apart
from ..progress import Progress
from .load import named_base

if TYPE_CHECKING:
    from .third_party_options import ForeignOptions

PEFT, PACKED = "peft", "packed"


def adapter_kind(path: Path) -> str:
    """PEFT, PACKED, or another project's dialect: PEFT unless its files say otherwise."""
    if path.is_dir() and any((path / name).is_file() for name in WEIGHTS_NAMES):
        return PEFT
    if packed_at(path) is not None:
        return PACKED
    from ..formats import third_party as foreign

    found = foreign.find(path)
    return found[0] if found else PEFT


def refuse_foreign(path: Path) -> None:
    """Raise UnsupportedError for a third-party adapter, but for one inside a checkpoint."""
    from ..formats import third_party as foreign

    found = foreign.find(path, checkpoints=False)
    if found is not None:
        raise _another(path, found[0])


def _another(path: Path, kind: str) -> UnsupportedError:
    return UnsupportedError(
        f"is another project's adapter ({kind})",
        where=path,
        hint=f"Make it PEFT's first: tinylora convert {path} -o ADAPTER --to peft --base BASE",
    )


@contextmanager
def in_peft_form(
    path: Path,
    base: Path | None,
    *,
    output: Path | None = None,
    kind: str | None = None,
    options: ForeignOptions | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Path, list[str]]]:
    """The very path of an adapter that PEFT wrote, or a temporary directory that another kind is put into; and what to
    know of the change.

    `kind` insists on one. Third-party adapters are taken only with `options`. `output` is what is going to be written:
    who gets the temporary directory can't tell any more that it would replace an input.

    Raises
    ------
    OutputError
        If `output` is an input, or the base that the adapter names, lies in one or holds one.
    UnsupportedError
        If the adapter is of another kind than `kind`, or a third party's and has to be converted first.
    TinyLoraError
        If it can't be had in PEFT's form.
    """
    found = adapter_kind(path)
    if output is not None:
        others = (options.projections, options.against) if options else ()
        keep_apart(output, [one for one in (path, base, *others) if one is not None])
    if kind not in (None, found):
        raise UnsupportedError(
            f"is of the kind {found}, not {kind}", where=path, hint=f"Say --from {found}, or nothing."
        )
    if found in (PEFT, PACKED) and options is not None and options.needless:
        raise UnsupportedError(
            f"is {found}: {options.needless} is for other projects' adapters", where=path, hint="Leave it out."
        )
    if found == PEFT:
        if output is not None:
            keep_apart_from_base(output, path)
        yield path, []
        return
    if found != PACKED and options is None:
        raise _another(path, found)
    with TemporaryDirectory(prefix="tinylora-") as temporary:
        directory = Path(temporary) / (path.resolve().stem or "adapter")
        directory.mkdir()
        notes = _put(path, base, directory, options, progress)
        if output is not None:
            keep_apart_from_base(output, directory, path if path.is_dir() else path.parent)
        yield directory, notes


def keep_apart_from_base(output: Path, adapter: Path, beside: Path | None = None) -> None:
    """As `keep_apart`, from the base that the adapter names; `beside` as `named_base`."""
    base = named_base(read_adapter(adapter), beside)
    if base is not None and is_checkpoint(base):
        keep_apart(output, [base])


def _put(
    path: Path, base: Path | None, directory: Path, options: ForeignOptions | None, progress: Progress | None
) -> list[str]:
    from .third_party import import_foreign  # these need torch
    from .unpack import restore
    from .write import write_adapter

    packed = packed_at(path)
    if packed is not None:
        tensors, config = restore(packed, base, device=options.device if options else "cpu", progress=progress)
        write_adapter(directory, tensors, config, {})
        return []
    adapter = import_foreign(path, base, options, progress)
    write_adapter(directory, adapter.tensors, adapter.config, adapter.metadata)
    return adapter.warnings
