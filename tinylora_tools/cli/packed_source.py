"""Packed adapters where a command takes an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..formats.packed import packed_at


@contextmanager
def as_adapter(path: Path, base: Path | None) -> Iterator[Path]:
    """The path itself, or that of a temporary directory that a packed adapter is restored into, from its base."""
    if packed_at(path) is None:
        yield path
        return
    from ..ops.unpack import unpacked  # only this needs torch
    from .memory import keep_freed_memory

    keep_freed_memory()
    with unpacked(path, base) as restored:
        yield restored
