"""What is said of a third-party adapter beside its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.streams.projection import DEFAULT_STREAM


@dataclass(frozen=True, slots=True)
class ForeignOptions:
    """What a foreign adapter's files don't tell.

    `settings` are the dialect's own; `projections` is a file with P; `against` a checkpoint that the adapter was merged
    into, which tells the signs of singular pairs.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    projections: Path | None = None
    against: Path | None = None
    stream: str = DEFAULT_STREAM
    module_order: tuple[str, ...] | None = None
    device: str = "cpu"

    @property
    def needless(self) -> str:
        """The option that PEFT's and packed adapters have no use for, where one is given."""
        given = {"--setting": self.settings, "--projection": self.projections, "--against": self.against}
        return next((name for name, value in given.items() if value), "")
