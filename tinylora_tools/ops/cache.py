"""What is kept of packed adapters' factors."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from ..bases.kept_factors import LIMIT, cache_directory, kept_files


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The directory (None where nothing is kept), the sets of factors that are, or with `cleared` were, there, and
    the bytes of all that is kept; `limit` is what they may take, in bytes."""

    directory: str | None
    sets: int
    bytes: int
    limit: int
    cleared: bool
    warnings: list[str] = field(default_factory=list)


def cache(*, clear: bool = False) -> CacheReport:
    """Look at what is kept; with `clear` remove it.

    Raises
    ------
    OSError
        If it can't be removed.
    """
    directory = cache_directory()
    files = [] if directory is None else kept_files(directory)
    if clear:
        for path, _ in files:
            with suppress(FileNotFoundError):
                path.unlink()
    return CacheReport(
        directory=None if directory is None else str(directory),
        sets=sum(path.suffix == ".npz" for path, _ in files),
        bytes=sum(state.st_size for _, state in files),
        limit=LIMIT,
        cleared=clear,
    )
