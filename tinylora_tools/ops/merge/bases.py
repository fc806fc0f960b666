"""The base that a merge is made of: the one that is named, or that all adapters name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...adapters.source import Source, name_the_base
from ...bases.base import Base, open_base
from ...errors import MismatchError, TinyLoraError, UndeterminedError, UnsupportedError
from ...formats.third_party import Found
from ...sources.model_card import is_repository
from ...sources.repository import Repository
from ...wording import argument


def base_of(sources: Sequence[Source], base: str | Path | Base | None, *, afar: bool) -> Base:
    """An open base, whole and at hand: what the adapters name is downloaded where it is a repository on the Hub that
    isn't in its cache; with `afar`, neither that nor a repository that is named is downloaded.

    Raises
    ------
    UndeterminedError
        If an adapter doesn't name its base, or it can't be had.
    MismatchError
        If adapters name different ones.
    UnsupportedError
        If there is nothing afar.
    """
    found = _common(sources, afar=afar) if base is None else open_base(base, afar=afar).require_directory()
    if afar and not found.afar and found.source == str(found.path):
        raise UnsupportedError(
            "is on this machine, so that nothing of it is streamed",
            where=found.path,
            hint=f"Leave {argument('stream_base', True)} out, or name a repository on the Hub.",
        )
    return found


def _common(sources: Sequence[Source], *, afar: bool) -> Base:
    found: dict[Path, Base] = {}
    for source in sources:
        base = _named_by(source, afar=afar)
        found.setdefault(base.path.resolve(), base)
    if len(found) > 1:
        raise MismatchError(
            f"the adapters name different bases: {', '.join(base.source for base in found.values())}",
            hint=f"Say with {argument('base')} which one to merge into.",
        )
    return next(iter(found.values()))


def _named_by(source: Source, *, afar: bool) -> Base:
    """The base of one adapter."""
    base, name = source.named_base, source.base_name
    if base is not None and not base.is_partial:
        return base
    if name is None or not is_repository(name):
        what = f"names {name!r} as its base, which isn't at hand" if name else "doesn't name its base"
        raise UndeterminedError(what, where=source.path, hint=name_the_base(name))
    revision = None if isinstance(source.content, Found) else source.content.config.revision
    try:
        return open_base(str(Repository(name, revision)), afar=afar)
    except TinyLoraError as error:
        raise UndeterminedError(
            f"names {name!r} as its base, which isn't at hand: {error.what}",
            where=source.path,
            hint=f"{error.hint or ''} {name_the_base(None)}".lstrip(),
        ) from None
