"""What a merge is told, and the plan that follows: for who writes it, and for who forms it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...adapters import soundness
from ...adapters.load import Adapter
from ...adapters.source import Source
from ...bases.base import Base
from ...checks import DTYPES
from ...core.streams.projection import STREAMS
from ...formats.peft.release import Seeding
from ...progress import Progress
from .plan import plan_merge
from .tokenizer import Chosen, choose_tokenizer
from .words import MergePlan


@dataclass(frozen=True, slots=True)
class Settings:
    """Whatever of a merge's arguments its bytes depend on, as `merge` has them; a scale for each adapter, and the
    sha256 of the architecture file that was given."""

    scales: tuple[float, ...]
    dtype: str = "auto"
    tied: str = "untie"
    stream: str | None = None
    module_order: tuple[str, ...] | None = None
    first_adapter: str | tuple[str, ...] | None = None
    seeding: Seeding | None = None
    release: str | None = None
    tokenizer: str | None = None
    architecture: str | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Settings:
        """Settings from JSON, whatever is in it.

        Raises
        ------
        ValueError
            If they aren't those of this release.
        """
        checks = {
            "scales": lambda value: _is_list(value, (int, float)) and all(abs(one) < 1e308 for one in value),
            "dtype": lambda value: value in ("auto", *DTYPES),
            "tied": lambda value: value in ("untie", "share"),
            "stream": lambda value: value is None or value in STREAMS,
            "module_order": lambda value: value is None or _is_list(value, (str,)),
            "first_adapter": lambda value: value is None or type(value) is str or _is_list(value, (str,)),
            "seeding": lambda value: value in (None, "index", "salted"),
            "tokenizer": lambda value: value in (None, "base", "adapter"),
            "release": lambda value: value in (None, "4", "5"),
            "architecture": lambda value: value is None or type(value) is str,
        }
        wrong = [name for name in checks if name not in said or not checks[name](said[name])]
        if wrong or said.keys() - checks.keys():
            raise ValueError(", ".join(wrong) or "unknown settings")
        lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
        return cls(**{**said, **lists, "scales": tuple(map(float, said["scales"]))})


def _is_list(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(type(one) in kinds for one in value)


def planned(
    base: Base,
    sources: Sequence[Source],
    settings: Settings,
    *,
    threads: int | None,
    keep_weights: bool,
    progress: Progress,
) -> tuple[list[Adapter], MergePlan, Chosen]:
    """The open adapters, known to be sound, what becomes of each tensor, and whose tokenizer comes along; raises as
    `merge`."""
    opened = [
        source.open(
            base,
            module_order=settings.module_order,
            first_adapter=settings.first_adapter,
            seeding=settings.seeding,
            stream=settings.stream,
            threads=threads,
            keep_weights=keep_weights,
            progress=progress,
        )
        for source in sources
    ]
    for adapter in opened:
        soundness.check(adapter)
    chosen = choose_tokenizer(base.path, base.config, opened, settings.tokenizer)
    with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused when it is written
        plan = plan_merge(
            base,
            opened,
            settings.scales,
            dtype=settings.dtype,
            tied=settings.tied,
            release=settings.release,
            pad_token_id=chosen.pad_token_id,
        )
    for adapter in opened:  # when nothing else is wrong, which more can be said of
        soundness.check_layers(adapter)
    return opened, plan, chosen
