"""What a LoRA adapter of TinyLoRA's updates consists of: tensors and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.load import Adapter
from ...errors import MismatchError
from ...formats.lora_adapter import config_json, factor_keys
from ...formats.peft.keys import base_key
from ...formats.tensors import DTYPE_BITS, dtype_name
from .lora_factors import Factors, summed


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The LoRA adapter's factors, as tensors in the file's order, and its configuration."""

    factors: Mapping[str, Factors]
    tensors: Mapping[str, NDArray[Any]]
    config: Mapping[str, Any]
    modules: int
    rank: int
    ranks: Mapping[str, int]


def plan_lora(
    loaded: Sequence[Adapter],
    scales: Sequence[float],
    dtype: str,
    rank_pattern: bool,
    release: str | None,
    own: Sequence[str] = (),
) -> LoraPlan:
    """Sum the adapters' updates as one LoRA adapter; arguments and errors as `to_lora`'s. `own` names what the adapters
    bring whole and the base has already."""
    update = summed(loaded, scales, dtype, release, padded=not rank_pattern)
    differing = {module: r for module, r in update.ranks.items() if r != update.rank} if rank_pattern else {}
    tensors: dict[str, NDArray[Any]] = {}
    for module, factors in update.factors.items():
        tensors |= _tensors(module, factors)
    tensors |= _whole_tensors(loaded, update.factors, own)
    wanted = loaded[0].config.target_modules if len(loaded) == 1 else None
    by_names = isinstance(wanted, tuple) and bool(wanted)
    targets = list(wanted or ()) if by_names else sorted(update.factors)  # no server takes an expression
    config = config_json(
        _one_config(loaded, by_names=by_names),
        rank=update.rank,
        ranks=differing,
        targets=targets,
        transposed=any(one.kind == "Conv1D" for one in update.factors.values()),
    )
    ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[dtype_name(item[1].dtype)], item[0])))
    return LoraPlan(update.factors, ordered, config, len(update.factors), update.rank, differing)


def _tensors(module: str, factors: Factors) -> dict[str, NDArray[Any]]:
    """A module's factors under PEFT's keys, an embedding's the other way round."""
    embedding = factors.kind == "Embedding"
    first, second = (factors.left.T, factors.right.T) if embedding else (factors.right, factors.left)
    values = (np.ascontiguousarray(first), np.ascontiguousarray(second))
    return dict(zip(factor_keys(module, embedding=embedding), values, strict=True))


def _whole_tensors(
    loaded: Sequence[Adapter], targeted: Mapping[str, object], own: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Biases, modules_to_save and embeddings that the adapters bring whole, under the keys that LoRA has for them."""
    found: dict[str, NDArray[Any]] = {}
    for one in loaded:
        for parameter, replacement in one.header.replaced.items():
            if parameter in own:
                continue
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
    Layers are for targets by the names that the adapter has: TinyLoRA passes over them for an expression."""
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
