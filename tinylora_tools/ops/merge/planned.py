"""What a merge is told, and the plan that follows: for who writes it, and for who forms it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...adapters import soundness
from ...adapters.load import Adapter
from ...adapters.source import Source
from ...bases.base import Base
from ...progress import Progress
from .plan import plan_merge
from .words import MergePlan


@dataclass(frozen=True, slots=True)
class Settings:
    """Whatever of a merge's arguments its bytes depend on, as `merge` has them; a scale for each adapter."""

    scales: tuple[float, ...]
    dtype: str = "auto"
    tied: str = "untie"
    stream: str | None = None
    module_order: tuple[str, ...] | None = None
    release: str | None = None


def planned(
    base: Base,
    sources: Sequence[Source],
    settings: Settings,
    *,
    threads: int | None,
    keep_weights: bool,
    progress: Progress,
) -> tuple[list[Adapter], MergePlan]:
    """The open adapters, known to be sound, and what becomes of each tensor; raises as `merge`."""
    opened = [
        source.open(
            base,
            module_order=settings.module_order,
            stream=settings.stream,
            threads=threads,
            keep_weights=keep_weights,
            progress=progress,
        )
        for source in sources
    ]
    for adapter in opened:
        soundness.check(adapter)
    with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused when it is written
        plan = plan_merge(
            base, opened, settings.scales, dtype=settings.dtype, tied=settings.tied, release=settings.release
        )
    return opened, plan
