"""What a third-party adapter's files don't tell, and its user does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answers:
    """`settings` are the dialect's own; `projection` is a file with P; `against` a checkpoint that the adapter was
    merged into, which tells the signs of singular pairs."""

    settings: Mapping[str, str] = field(default_factory=dict)
    projection: Path | None = None
    against: Path | None = None

    @property
    def needless(self) -> str | None:
        """The argument that PEFT's and packed adapters have no use for, where one is given."""
        return next((name for name in ("settings", "projection", "against") if getattr(self, name)), None)

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.projection, self.against) if path is not None]
