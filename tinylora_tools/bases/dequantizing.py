"""Bases whose weights are 8-bit floats with scales, read as what these stand for.

transformers calls DeepSeek-V3's form "fp8" (FineGrainedFP8Config): a `weight` in F8_E4M3 beside a `weight_scale_inv`
for its blocks, or for all of it, which some checkpoints call `scale` or `qscale_weight`. compressed-tensors has a
`weight_scale` for all of a weight, for each row or for blocks. The weight stands for the product of both in float32,
rounded to the model's dtype where it is loaded (`Fp8Dequantize` in transformers/integrations/finegrained_fp8.py,
`CompressedTensorsDequantize` in compressed_tensors.py, 5.23). That is the weight which PEFT trains on: it can't factor
8-bit floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.block_scales import block_of
from ..formats.checkpoint import Checkpoint
from ..formats.tensors import DTYPE_OF, FLOAT_NAMES
from .quantization import method_of, model_dtype, settings_of
from .scaled_weight import ScaledWeight

#: The dtypes of such weights, and of their scales besides the floating-point ones: powers of two, by their exponent.
_WEIGHTS, _EXPONENTS = ("F8_E4M3", "F8_E5M2"), ("F8_E8M0", "U8")

#: Blocks where the configuration doesn't name any, as transformers takes them.
_USUAL_BLOCK = (128, 128)


@dataclass(frozen=True, slots=True)
class _Form:
    """What a method calls the scales of a module's weight, what else goes with them, and what may not be there."""

    scales: tuple[str, ...]
    others: tuple[str, ...]
    excluded: tuple[str, ...] = ()


_FORMS = {
    "fp8": _Form(("weight_scale_inv", "scale", "qscale_weight"), ("activation_scale", "input_scale", "qscale_act")),
    "compressed-tensors": _Form(
        ("weight_scale",), ("input_scale",), ("weight_zero_point", "weight_global_scale", "weight_g_idx")
    ),
}


def dequantizing(base: Checkpoint) -> Checkpoint:
    """The same checkpoint, whose 8-bit weights with scales are read as what they stand for."""
    _, settings = settings_of(base.config)
    form = _FORMS.get(method_of(base.config) or "fp8")
    if form is None or settings.get("transform_config"):  # rotated weights stand for others
        return base
    block, dtype = _block(settings), DTYPE_OF[model_dtype(base.config)]
    found: dict[str, ScaledWeight] = {}
    for key in base.shard_of:
        if base.info(key).dtype in _WEIGHTS:
            weight = _scaled(base, key, form, block, dtype)
            if weight is not None:
                found[key] = weight
    return base.reading(found) if found else base


def _block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """What the settings say of the blocks."""
    said = settings.get("weight_block_size", _USUAL_BLOCK)
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        said = (weights.get("block_structure") if isinstance(weights, Mapping) else None) or said
    if isinstance(said, list | tuple) and len(said) == 2 and all(type(n) is int and n > 0 for n in said):
        return said[0], said[1]
    return None


def _scaled(base: Checkpoint, key: str, form: _Form, block: tuple[int, int] | None, dtype: str) -> ScaledWeight | None:
    """A weight with its scales; None where it has none, or such as fit no blocks of it."""
    owner, _, last = key.rpartition(".")
    # Experts of a layer in one tensor have its own name before their scales'.
    names = [f"{owner}.{name}" if last == "weight" else f"{key}{name.removeprefix('weight')}" for name in form.scales]
    beside = [name for name in names if name in base]
    shape = base.info(key).shape
    if len(beside) != 1 or len(shape) < 2 or any(f"{owner}.{name}" in base for name in form.excluded):
        return None
    scale = base.info(beside[0])
    found = block_of(shape, scale.shape, block)
    if found is None or scale.dtype not in (*FLOAT_NAMES, *_EXPONENTS):
        return None
    others = [f"{owner}.{name}" for name in form.others if last == "weight"]
    companions = (beside[0], *(name for name in others if name in base))
    return ScaledWeight(key, base.source(key), base.source(beside[0]), beside[0], found, dtype, companions)
