"""What a merge would write, formed as it is read: for who compares a merged model that has no manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.source import find_sources
from ...bases.architectures.families import given_mark
from ...bases.base import Base
from ...core.block_sum import NumpyBlockAdder
from ...formats.checkpoint import read_model_config
from ...formats.tensors import FLOAT_NAMES, PIECE, TensorInfo, Tensors, numpy_dtype
from ...progress import NoProgress, Progress
from ...sources.locate import locate
from ...workers import Workers
from ..opened import AdapterLike
from ..scales import one_each
from .bases import base_of
from .planned import Settings, planned
from .words import MergePlan, Outcome
from .writing.digest import tensor_data
from .writing.write import BLOCK_ELEMENTS, Buffers


@dataclass(frozen=True, eq=False)
class _Formed:
    """A `TensorFile` of one tensor of a merge."""

    path: Path
    info: TensorInfo
    outcome: Outcome
    buffers: Buffers
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {self.info.name: self.info}

    def read(self, name: str) -> NDArray[Any]:
        data = b"".join(self.pieces(name))
        return np.frombuffer(data, numpy_dtype(self.info.dtype)).reshape(self.info.shape)

    def pieces(self, name: str) -> Iterator[bytes]:
        held = bytearray()
        with Workers(1) as pool:
            for data in tensor_data(self.info, self.outcome, pool, self.buffers, 1):
                held += data
                while len(held) >= PIECE:
                    yield bytes(held[:PIECE])
                    del held[:PIECE]
        if held:
            yield bytes(held)


def merged(
    adapters: Sequence[AdapterLike] | AdapterLike,
    like: str | Path,
    *,
    base: str | Path | Base | None = None,
    scale: float | Sequence[float] = 1.0,
    progress: Progress | None = None,
) -> Tensors:
    """The tensors that a merge of adapters into their base would write, for `diff`; none is kept.

    Parameters
    ----------
    adapters : path, open adapter, or a sequence of them
    like : path
        The merged model that it is compared with, whose config.json says in which dtype, and whether ties were undone.
    base : path, optional
        By default the one that the adapters name.
    scale : float or sequence of float
        Of the updates: one for all adapters, or one for each.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For whatever can't be merged.
    """
    sources = find_sources(adapters)
    at, found = base_of(sources, base, afar=False), locate(like)
    config = read_model_config(found if found.is_dir() else found.parent) or {}
    scales = one_each(scale, len(sources))

    def plan(tied: str) -> MergePlan:
        settings = Settings(scales, _dtype(config, at.config or {}), tied, architecture=given_mark())
        given = {"threads": None, "keep_weights": True, "progress": progress or NoProgress()}
        return planned(at, sources, settings, **given)[1]  # type: ignore[arg-type]

    chosen = plan("untie")
    settings = _settings(chosen, at)
    if chosen.tied == "untied" and config.get("tie_word_embeddings") != settings.get("tie_word_embeddings"):
        chosen = plan("share")
        settings = _settings(chosen, at)
    buffers = Buffers(NumpyBlockAdder, BLOCK_ELEMENTS)
    files = {
        info.name: _Formed(at.path / file.name, info, outcome, buffers)
        for file in chosen.files
        for info, outcome in file.tensors
    }
    names = " and ".join(source.path.name for source in sources)
    return Tensors(f"{at.source} with {names}", files, settings, chosen.warnings)


def _settings(plan: MergePlan, base: Base) -> dict[str, Any]:
    return {key: value for key, value in {**(base.config or {}), **plan.config}.items() if value is not None}


def _dtype(config: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """What `dtype` the merge had."""
    here, there = (one.get("dtype") or one.get("torch_dtype") for one in (config, base))
    return str(here) if here in FLOAT_NAMES.values() and here != there else "auto"
