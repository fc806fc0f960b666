"""Canonical factors that were computed before, kept in the user's cache: every packed adapter of the same weights and
rank needs the same ones, and they take most of its time.

A file for each set of weights: numpy's .npz with `entries`, A and B of all modules one behind the other, and `unsure`,
the places of those that another machine may round otherwise. A zip's checksums find what was damaged; it is computed
again then, as all is that can't be read or kept.

And a small file for each base on this machine, with the fingerprint of its weights: known as long as none of its files
changes its inode, its size, or when it was written or otherwise changed, to the nanosecond.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..core.svd.entries import Canonical
from ..formats.tensors import float_dtype
from ..ranks import ranks
from .base import Base
from .modules import Module

#: What names the directory; empty for none.
VARIABLE = "TINYLORA_CACHE_DIR"

#: Bytes that the directory may take: what was used last stays.
LIMIT = 2_000_000_000

#: Nanoseconds after which a file that was changed again shows it.
_SETTLED = 2_000_000_000

#: Of what canonical factors are: another way to compute them that may give other ones has another number.
_VERSION = 1

_unused: ContextVar[bool] = ContextVar("_unused", default=False)


@contextmanager
def without_kept_factors() -> Iterator[None]:
    """Neither look for kept factors nor keep any meanwhile."""
    token = _unused.set(True)
    try:
        yield
    finally:
        _unused.reset(token)


def cache_directory() -> Path | None:
    """Where factors are kept; None where they aren't."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named).absolute() if named else None
    try:
        import platformdirs
    except ImportError:
        return None
    return Path(platformdirs.user_cache_dir("tinylora", appauthor=False)) / "factors"


class KeptMark:
    """The fingerprint of modules' weights in files that are as they were."""

    def __init__(self, base: Base, modules: Sequence[Module]) -> None:
        states, shard_of = _states(base), base.checkpoint.shard_of
        names = [[one.tensor.name, shard_of.get(one.tensor.name)] for one in modules]
        self._path = None if states is None else _place_of([states, names], ".mark")

    def read(self) -> str | None:
        """The fingerprint; None where it isn't known."""
        if self._path is None:
            return None
        try:
            found = self._path.read_text("ascii")
            os.utime(self._path)
        except (OSError, ValueError):
            return None
        return found

    def keep(self, mark: str) -> None:
        """Keep the fingerprint of files that are, since this was made, as they were."""
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _write(self._path, lambda file: file.write(mark.encode("ascii")))


def _states(base: Base) -> list[list[Any]] | None:
    """What changes in a base's files when they do; None where it can't be told, or where they were changed just now:
    what is written within the clock's tick doesn't show."""
    found: list[list[Any]] = []
    for path in [*(shard.path for shard in base.checkpoint.shards), base.checkpoint.path / "config.json"]:
        try:
            state = path.stat()
        except OSError:
            if path.name == "config.json":
                continue
            return None
        written, changed = state.st_mtime_ns, state.st_ctime_ns
        if time.time_ns() - max(written, changed) < _SETTLED:
            return None
        found.append([str(path.absolute()), state.st_dev, state.st_ino, state.st_size, written, changed])
    return found


def kept_files(directory: Path) -> list[tuple[Path, os.stat_result]]:
    """The files in it, with what was used last first."""
    found = []
    with suppress(OSError):
        for path in directory.iterdir():
            with suppress(OSError):  # another process may remove it just now
                if path.suffix in (".npz", ".mark"):
                    found.append((path, path.stat()))
    return sorted(found, key=lambda one: -one[1].st_mtime_ns)


def _place_of(what: list[Any], ending: str) -> Path | None:
    """Where something is kept, by all that it is of; None where nothing is. Several `ranks` keep nothing: what one of
    them finds another one, on another machine, may not, and they have to do the same."""
    directory = None if _unused.get() or ranks().count > 1 else cache_directory()
    name = hashlib.sha256(json.dumps([_VERSION, *what]).encode()).hexdigest()
    return None if directory is None else directory / f"{name}{ending}"


class KeptFactors:
    """Where the canonical factors of modules are, or are going to be.

    Parameters
    ----------
    mark : str
        The fingerprint of the modules' weights, in their order.
    modules : sequence of Module
    rank : int
    dtypes : mapping
        What each module was trained in, by its name.
    """

    def __init__(self, mark: str, modules: Sequence[Module], rank: int, dtypes: Mapping[str, str]) -> None:
        self._modules, self._rank = modules, rank
        narrow = sorted({dtypes[module.name] for module in modules})
        self._dtype = float_dtype(narrow[0] if len(narrow) == 1 else "float32")
        self._path = _place_of([mark, rank, [[module.kind, dtypes[module.name]] for module in modules]], ".npz")

    def read(self) -> dict[str, Canonical] | None:
        """The factors by their modules' names; None where they aren't there, whole."""
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                entries, unsure = held["entries"], held["unsure"]
            found = self._apart(entries, unsure)
            os.utime(self._path)
        except Exception:  # whatever zip files can be damaged into
            return None
        return found

    def _apart(self, entries: NDArray[Any], unsure: NDArray[Any]) -> dict[str, Canonical]:
        if entries.dtype != _plain(self._dtype) or entries.shape != (self._size,) or unsure.dtype != np.int64:
            raise ValueError("these are other modules' factors")
        whole, either = entries.view(self._dtype).astype(np.float32), np.zeros(len(entries), np.bool_)
        either[unsure] = True
        found, first = {}, 0
        for module in self._modules:
            rank, parts = module.rank(self._rank), []
            for shape in ((rank, module.in_features), (module.out_features, rank)):
                part = slice(first, first := first + shape[0] * shape[1])
                parts.append((whole[part].reshape(shape), either[part].reshape(shape)))
            found[module.name] = Canonical(parts[0][0], parts[1][0], parts[0][1], parts[1][1])
        return found

    @property
    def _size(self) -> int:
        return sum((one.in_features + one.out_features) * one.rank(self._rank) for one in self._modules)

    def keep(self, found: Mapping[str, Canonical]) -> None:
        """Keep factors, and remove what wasn't used for the longest time where there is too much; nothing where that
        can't be done."""
        if self._path is None or self._size * self._dtype.itemsize > LIMIT // 2:
            return
        each = [found[module.name] for module in self._modules]
        entries = np.concatenate([part.ravel() for one in each for part in (one.A, one.B)]).astype(self._dtype)
        unsure = np.concatenate([part.ravel() for one in each for part in (one.unsure_a, one.unsure_b)])
        plain = entries.view(_plain(self._dtype))
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            places = np.flatnonzero(unsure).astype(np.int64)
            _write(self._path, lambda file: np.savez(file, entries=plain, unsure=places))
            _remove_the_oldest(self._path.parent)


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Under its name only when it is whole."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _remove_the_oldest(directory: Path) -> None:
    total = 0
    for path, state in kept_files(directory):
        total += state.st_size
        if total > LIMIT:
            with suppress(OSError):
                path.unlink()


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype that .npz has, of the same size."""
    return np.dtype(np.uint16) if dtype.itemsize == 2 else dtype
