"""A base model that is at hand, open: its configuration, its architecture, its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..formats.checkpoint import (
    Checkpoint,
    Files,
    is_checkpoint,
    is_whole,
    lacks_shards,
    read_checkpoint,
    read_model_config,
)
from ..sources.locate import HUB_PREFIX, base_name, locate, shown
from ..sources.remote import look
from ..sources.repository import names_repository
from .architectures.architecture import Architecture
from .architectures.families import given_mark
from .architectures.named import from_config
from .dequantizing import dequantizing


class Base:
    """A base model's directory, or one weights file of it. What it holds is read once, when it is first asked for.

    Parameters
    ----------
    path : Path
    name : str, optional
        What an adapter's configuration calls it; None for its path.
    files : Files, optional
        Has its weights, where they aren't at the path.
    """

    def __init__(self, path: Path, name: str | None = None, files: Files | None = None) -> None:
        self.path = path
        self._files = files
        self.name = base_name(path) if name is None else name
        self._architectures: dict[str | None, Architecture | None] = {}

    @property
    def directory(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """config.json; None where there is none."""
        return read_model_config(self.directory)

    @property
    def architecture(self) -> Architecture | None:
        """What config.json names, or the architecture file that is given describes; None where that isn't known, or
        nothing is named."""
        mark = given_mark()
        if mark not in self._architectures:
            self._architectures[mark] = from_config(self.config or {})
        return self._architectures[mark]

    @architecture.setter
    def architecture(self, found: Architecture) -> None:
        self._architectures[given_mark()] = found

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The headers of its weights, where 8-bit floats with scales are read as what they stand for; raises as
        `read_checkpoint`."""
        return dequantizing(read_checkpoint(self.path, self.config, self._files))

    @cached_property
    def has_weights(self) -> bool:
        """Whether there is anything for `checkpoint` to read: the Hub's cache may have a part of it only."""
        if self._files is not None or self.path.is_file():
            return True
        return is_checkpoint(self.path) and (self.source == str(self.path) or not lacks_shards(self.path))

    @property
    def is_partial(self) -> bool:
        """Whether the Hub's cache has a part of it only, without its weights."""
        return not self.has_weights and self.source != str(self.path)

    @property
    def afar(self) -> bool:
        """Whether its weights aren't on this machine, or needn't be."""
        return self._files is not None

    @property
    def commit(self) -> str | None:
        """That of the repository which it was named as; None for a directory."""
        repository, _, commit = self.source.partition("@")
        return commit if repository == f"{HUB_PREFIX}{self.name}" else None

    @property
    def source(self) -> str:
        """Where it is, as reports have it: of a repository, with its commit."""
        return shown(self.path)

    @property
    def unknown(self) -> str:
        """Why the architecture isn't known, where it isn't."""
        kind = (self.config or {}).get("model_type")
        return f"the architecture {kind!r} isn't known" if kind else "no config.json beside it tells the architecture"

    def require_model(self) -> Base:
        """Raise FormatError where there is neither a config.json nor weights: it is no model's directory."""
        if self.config is None and not self.has_weights:
            raise FormatError(
                "no model here: neither a config.json nor weights", where=self.path, hint="Name the base's directory."
            )
        return self

    def require_directory(self) -> Base:
        """Raise FormatError for a weights file that isn't all of a model, such as a shard."""
        if not self.path.is_dir():
            hint = "Name the directory that holds the base's config.json and all of its weights."
            raise FormatError("is a weights file by itself, not a whole model", where=self.path, hint=hint)
        return self


def open_base(base: str | Path | Base, *, afar: bool = False) -> Base:
    """A base by its path or its Hub repository, or one that is open already. Where a model's directory has one weights
    file, that stands for the directory. With `afar`, the weights of a repository aren't downloaded: their headers, and
    tensors that are asked for, are read by ranges.

    Raises
    ------
    FormatError
        If there is nothing at the path.
    """
    if isinstance(base, Base):
        return base
    remote = look(base) if afar and names_repository(base) else None
    if remote is not None and remote.is_checkpoint:
        return Base(remote.directory, remote.repository.id, remote)
    path = locate(base)
    if path.is_file() and is_whole(path):
        path = path.parent
        return Base(path, base_name(path))
    return Base(path, base_name(base))
