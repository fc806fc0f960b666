"""What a LoRA adapter of TinyLoRA's updates consists of: tensors and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.load import Adapter
from ...adapters.updates import embedding_scale, projected_vectors
from ...bases.architectures.hints import way_out
from ...bases.tensor_names import in_numbered_layer, not_plain, unknown_module
from ...core.lowrank import left_factor
from ...errors import MismatchError, UndeterminedError, UnsupportedError
from ...formats.lora_adapter import config_json, factor_keys
from ...formats.peft.config import ALL_LINEAR
from ...formats.peft.keys import base_key
from ...formats.tensors import DTYPE_BITS, dtype_name, float_dtype
from ...wording import argument


@dataclass(frozen=True, slots=True)
class _Pair:
    """A module's update as left @ right: (out, k) in float64, (k, in) as stored."""

    left: NDArray[Any]
    right: NDArray[Any]


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The LoRA adapter's tensors, in the file's order, and its configuration."""

    tensors: Mapping[str, NDArray[Any]]
    config: Mapping[str, Any]
    modules: int
    rank: int
    ranks: Mapping[str, int]


def plan_lora(
    loaded: Sequence[Adapter], scales: Sequence[float], dtype: str, rank_pattern: bool, release: str | None
) -> LoraPlan:
    """Sum the adapters' updates as one LoRA adapter; arguments and errors as `to_lora`'s."""
    pairs: dict[str, list[_Pair]] = {}
    for adapter, scale in zip(loaded, scales, strict=True):
        for module, pair in _pairs(adapter, scale, release).items():
            pairs.setdefault(module, []).append(pair)
    kinds = _kinds(loaded, list(pairs), release)
    whole = {module: _stacked(module, parts) for module, parts in pairs.items()}
    ranks = {module: len(pair.right) for module, pair in whole.items()}
    rank = max(ranks.values())
    differing = {module: r for module, r in ranks.items() if r != rank} if rank_pattern else {}
    tensors: dict[str, NDArray[Any]] = {}
    for module, pair in whole.items():
        tensors |= _tensors(module, pair, ranks[module] if differing else rank, kinds[module], dtype)
    tensors |= _whole_tensors(loaded, whole)
    targets = _targets(loaded, whole)
    config = config_json(
        _one_config(loaded, by_names=len(loaded) == 1 and not isinstance(targets, str)),
        rank=rank,
        ranks=differing,
        targets=targets,
        transposed="Conv1D" in kinds.values(),
    )
    ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[dtype_name(item[1].dtype)], item[0])))
    return LoraPlan(ordered, config, len(whole), rank, differing)


def _pairs(adapter: Adapter, scale: float, release: str | None) -> dict[str, _Pair]:
    """The factors of each module's update."""
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):  # _tensors refuses what isn't finite
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
    numbered layers is linear (a Conv1D's factors have the same form), and of the rest nothing is."""
    known = next((one.architecture for one in loaded if one.architecture), None)
    if known is None:
        doubtful = next((module for module in modules if not in_numbered_layer(module)), None)
        if doubtful is not None:
            base = loaded[0].base
            raise unknown_module(doubtful, dict((base.config if base else None) or {}), loaded[0].path)
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


def _tensors(module: str, pair: _Pair, rank: int, kind: str, dtype: str) -> dict[str, NDArray[Any]]:
    """A module's factors, padded with zeros to the rank and rounded once."""
    target = float_dtype(dtype)
    more = rank - len(pair.right)
    left = np.pad(pair.left, ((0, 0), (0, more)))  # (out, rank)
    right = np.pad(pair.right.astype(np.float64), ((0, more), (0, 0)))  # (rank, in)
    first, second = (left.T, right.T) if kind == "Embedding" else (right, left)
    with np.errstate(over="ignore"):
        values = [np.ascontiguousarray(part).astype(target) for part in (first, second)]
    if not all(np.all(np.isfinite(value.astype(np.float32))) for value in values):
        finite = all(np.all(np.isfinite(exact)) for exact in (first, second))
        raise UnsupportedError(
            f"{module}: its factors " + (f"are too large for {target.name}" if finite else "hold NaN or Inf"),
            hint=f"Choose {'a smaller scale' if dtype == 'float32' else 'float32, or a smaller scale'}."
            if finite
            else "Check the adapter, and its scale.",
        )
    return dict(zip(factor_keys(module, embedding=kind == "Embedding"), values, strict=True))


def _whole_tensors(loaded: Sequence[Adapter], targeted: Mapping[str, object]) -> dict[str, NDArray[Any]]:
    """Biases, modules_to_save and embeddings that the adapters bring whole, under the keys that LoRA has for them."""
    found: dict[str, NDArray[Any]] = {}
    for one in loaded:
        for parameter, replacement in one.header.replaced.items():
            owner, _, last = parameter.rpartition(".")
            key = base_key(owner, last, wrapped=owner in targeted)
            values = one.header.file.read(replacement.tensor.name)
            if key in found and not np.array_equal(found[key], values):
                raise MismatchError(
                    f"{parameter}: two adapters bring different values for it, which can't be summed",
                    where=one.header.file.path,
                    hint="Convert them one by one.",
                )
            found[key] = values
    return found


def _one_config(loaded: Sequence[Adapter], *, by_names: bool) -> dict[str, Any]:
    """The configuration that the result inherits: the first adapter's, with the others' modules_to_save and biases.
    Layers are for targets by the names that the adapter has: TinyLoRA passes over them for an expression, PEFT's LoRA
    refuses it."""
    configs = [dict(one.config.raw) for one in loaded if one.header.has_config]
    if not configs:
        return {}
    merged = configs[0]
    if not by_names:
        merged |= {"layers_to_transform": None, "layers_pattern": None}
    if len(loaded) > 1:
        saved = {name for config in configs for name in config.get("modules_to_save") or []}
        biases = [b for b in ("all", "tinylora_only") if any(c.get("bias") == b for c in configs)]
        merged |= {"modules_to_save": sorted(saved) or None, "bias": biases[0] if biases else "none"}
    return merged


def _targets(loaded: Sequence[Adapter], modules: Mapping[str, object]) -> str | list[str]:
    """target_modules: what the one adapter's configuration says, or else the modules' full names."""
    wanted = loaded[0].config.target_modules if len(loaded) == 1 else None
    if isinstance(wanted, tuple) and wanted:
        return list(wanted)
    return wanted if isinstance(wanted, str) and wanted != ALL_LINEAR else sorted(modules)
