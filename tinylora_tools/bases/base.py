"""A base model that is at hand, open: its configuration, its architecture, its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..formats.checkpoint import Checkpoint, read_checkpoint, read_model_config
from ..sources.locate import base_name, locate
from .architecture import Architecture, from_config
from .dequantizing import dequantizing


class Base:
    """A base model's directory, or one weights file of it. What it holds is read once, when it is first asked for.

    Parameters
    ----------
    path : Path
    name : str, optional
        What an adapter's configuration calls it; None for its path.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = base_name(path) if name is None else name

    @property
    def directory(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """config.json; None where there is none."""
        return read_model_config(self.directory)

    @cached_property
    def architecture(self) -> Architecture | None:
        """What config.json names, or a given architecture file describes; None where that isn't known, or nothing is
        named."""
        return from_config(self.config or {})

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The headers of its weights, where 8-bit floats with scales are read as what they stand for; raises as
        `read_checkpoint`."""
        return dequantizing(read_checkpoint(self.path, self.config))

    def require_config(self) -> Base:
        """Raise FormatError where no config.json tells the architecture."""
        if self.config is None:
            raise FormatError(
                "no config.json here, which would tell the architecture",
                where=self.path,
                hint="Name the base's directory.",
            )
        return self


def open_base(base: str | Path | Base) -> Base:
    """A base by its path or its Hub repository, or one that is open already.

    Raises
    ------
    FormatError
        If there is nothing at the path.
    """
    return base if isinstance(base, Base) else Base(locate(base), base_name(base))
