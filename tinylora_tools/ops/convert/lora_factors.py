"""The factors of the sum of several adapters' updates, as a LoRA adapter of any format has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.load import Adapter
from ...adapters.soundness import check_layers
from ...adapters.updates import embedding_scale, projected_vectors
from ...bases.architectures.hints import way_out
from ...bases.tensor_names import in_numbered_layer, not_plain, unknown_module
from ...core.lowrank import left_factor
from ...errors import MismatchError, UndeterminedError, UnsupportedError
from ...formats.tensors import float_dtype
from ...wording import argument


@dataclass(frozen=True, slots=True)
class Factors:
    """A module's update as left @ right, both in one dtype: (out, r) and (r, in).

    An embedding's weight has its rows for out: left is (vocab, r), right (r, dim).
    """

    left: NDArray[Any]
    right: NDArray[Any]
    kind: str


@dataclass(frozen=True, slots=True)
class Summed:
    """The factors of every module, and the rank that each has before it is padded; `rank` is the largest."""

    factors: Mapping[str, Factors]
    ranks: Mapping[str, int]

    @property
    def rank(self) -> int:
        return max(self.ranks.values())


@dataclass(frozen=True, slots=True)
class _Pair:
    """A module's update as left @ right: (out, k) in float64, (k, in) as stored."""

    left: NDArray[Any]
    right: NDArray[Any]


def summed(
    loaded: Sequence[Adapter], scales: Sequence[float], dtype: str, release: str | None, *, padded: bool
) -> Summed:
    """The sum of the adapters' scaled updates, formed in float64 and rounded once to `dtype`.

    Parameters
    ----------
    loaded : sequence of Adapter
    scales : sequence of float
        One for each.
    dtype : "float32", "bfloat16" or "float16"
    release : "4" or "5", optional
        The transformers that adapters of Gemma's embeddings were trained under.
    padded : bool
        Whether all have the largest rank, with zeros for what they haven't.

    Raises
    ------
    MismatchError
        For adapters of different bases.
    UndeterminedError
        If no file tells a module's type, its P or its group.
    UnsupportedError
        For a module that does more than its kind, and for factors that aren't finite.
    """
    pairs: dict[str, list[_Pair]] = {}
    for adapter, scale in zip(loaded, scales, strict=True):
        for module, pair in _pairs(adapter, scale, release).items():
            pairs.setdefault(module, []).append(pair)
    kinds = _kinds(loaded, list(pairs), release)
    whole = {module: _stacked(module, parts) for module, parts in pairs.items()}
    ranks = {module: len(pair.right) for module, pair in whole.items()}
    rank = max(ranks.values())
    factors = {
        module: _rounded(module, pair, rank if padded else ranks[module], kinds[module], dtype)
        for module, pair in whole.items()
    }
    return Summed(factors, ranks)


def _pairs(adapter: Adapter, scale: float, release: str | None) -> dict[str, _Pair]:
    """The factors of each module's update."""
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):  # _rounded refuses what isn't finite
        for module, R in projected_vectors(adapter, scale).items():
            A, B = adapter.factors(module)
            dtype = float_dtype(adapter.training_dtype(module))
            # PEFT's LoRA adds its update in front of an embedding's own scale, TinyLoRA's behind it.
            own = embedding_scale(adapter, module, dtype, release, as_buffer=True)
            found[module] = _Pair(left_factor(B, R, 1.0 / own), A)
    return found


def _stacked(module: str, parts: Sequence[_Pair]) -> _Pair:
    shapes = {(len(pair.left), pair.right.shape[1]) for pair in parts}
    if len(shapes) > 1:
        raise MismatchError(
            f"{module}: the adapters are for weights of shapes {' and '.join(map(str, sorted(shapes)))}",
            hint="Convert adapters of one base together.",
        )
    return _Pair(np.concatenate([p.left for p in parts], 1), np.concatenate([p.right for p in parts], 0))


def _kinds(loaded: Sequence[Adapter], modules: Sequence[str], release: str | None) -> dict[str, str]:
    """Each module's type, which decides the form of its factors. Of an architecture that isn't known, what is in the
    numbered layers is linear (so is a Conv1D's form) if the user says so, and of the rest nothing is."""
    known = next((one.architecture for one in loaded if one.architecture), None)
    if known is None:
        doubtful = next((module for module in modules if not in_numbered_layer(module)), None)
        if doubtful is not None:
            base = loaded[0].base
            raise unknown_module(doubtful, dict((base.config if base else None) or {}), loaded[0].path)
        check_layers(loaded[0])
        return dict.fromkeys(modules, "Linear")
    found = {module: known.kind(module) for module in modules}
    unknown = [module for module, kind in found.items() if kind is None]
    if unknown:
        raise UndeterminedError(
            f"transformers' {known.model_type} has no module {unknown[0]}, so its type isn't known",
            hint=f"Name the adapter's own base with {argument('base')}. {way_out()}",
        )
    unlike = next((module for module in modules if not known.is_plain(module, release)), None)
    if unlike is not None:
        raise not_plain(unlike, known, loaded[0].path)
    return {module: kind for module, kind in found.items() if kind is not None}


def _rounded(module: str, pair: _Pair, rank: int, kind: str, dtype: str) -> Factors:
    """A module's factors, padded with zeros to the rank and rounded once."""
    target = float_dtype(dtype)
    more = rank - len(pair.right)
    left = np.pad(pair.left, ((0, 0), (0, more)))  # (out, rank)
    right = np.pad(pair.right.astype(np.float64), ((0, more), (0, 0)))  # (rank, in)
    with np.errstate(over="ignore"):
        values = [part.astype(target) for part in (left, right)]
    if not all(np.all(np.isfinite(value.astype(np.float32))) for value in values):
        finite = all(np.all(np.isfinite(exact)) for exact in (left, right))
        raise UnsupportedError(
            f"{module}: its factors " + (f"are too large for {target.name}" if finite else "hold NaN or Inf"),
            hint=f"Choose {'a smaller scale' if dtype == 'float32' else 'float32, or a smaller scale'}."
            if finite
            else "Check the adapter, and its scale.",
        )
    return Factors(values[0], values[1], kind)
