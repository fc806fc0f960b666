"""Quantized bases, tensor by tensor: what a base's configuration says of them, and which weights can't be adapted.

Weights in 8-bit floats with scales are read as what they stand for (`dequantizing`). Others are refused by name, where
they are targeted; what isn't targeted may be stored in any way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import TinyLoraError, UnsupportedError
from ..formats.checkpoint import Checkpoint
from ..formats.tensors import DTYPE_OF, FLOAT_NAMES
from .architectures.architecture import Architecture
from .scaled_weight import companions_of
from .tensor_names import BaseNames, TiedGroup

#: What the names of parameters in MXFP4 end in: gpt-oss's experts, all of a layer in one.
BLOCKS = "_blocks"

#: Dtypes of numbers that count or point: what else isn't a floating-point dtype holds packed weights.
_COUNTS = ("BOOL", "I64", "U64", "C64")

#: Names of scales, which a weight in a floating-point dtype has beside it only if it is quantized all the same.
_SCALE_NAMES = ("weight_scale", "weight_scale_inv", "weight_scales", "weight_scale_2")

_ORIGINAL = "Use the unquantized model that it was made from; quantize what comes of it."

#: How transformers dequantizes a model of each method.
_DEQUANTIZING = {
    "mxfp4": "load it with quantization_config=Mxfp4Config(dequantize=True)",
    "bitsandbytes": "load it and call model.dequantize()",
    "compressed-tensors": "load it with quantization_config=CompressedTensorsConfig(dequantize=True)",
    "higgs": "load it and call model.dequantize()",
}


def settings_of(config: Mapping[str, Any] | None) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Where config.json has its quantization settings, as the keys that lead there, and what they are; both are empty
    where it has none."""
    config = config or {}
    for path in (("quantization_config",), ("compression_config",), ("text_config", "quantization_config")):
        found: Any = config
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            return path, found
    return (), {}


def method_of(config: Mapping[str, Any] | None) -> str | None:
    """The method that a base was quantized by; None where config.json says nothing of any."""
    path, settings = settings_of(config)
    if not path:
        return None
    named = settings.get("quant_method")
    before_names = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & settings.keys() else "unknown method"
    return named if isinstance(named, str) else before_names


def model_dtype(config: Mapping[str, Any] | None) -> str:
    """The dtype that a model is loaded in, by PyTorch's name: what config.json says, or bfloat16."""
    config = config or {}
    text = config.get("text_config")
    places = [config, text] if isinstance(text, Mapping) else [config]
    said = [place.get(key) for place in places for key in ("dtype", "torch_dtype")]
    return next((name for name in said if isinstance(name, str) and name in DTYPE_OF), "bfloat16")


def is_packed(dtype: str) -> bool:
    """Whether a tensor of this dtype holds weights that aren't plain numbers."""
    return dtype not in FLOAT_NAMES and dtype not in _COUNTS


def refuse_packed(base: Checkpoint, key: str) -> None:
    """Raise UnsupportedError for a target tensor that isn't stored in a plain floating-point dtype."""
    dtype, owner = base.info(key).dtype, key.rpartition(".")[0]
    if dtype not in FLOAT_NAMES:
        raise _refusal(base, f"{key} is stored as {dtype}")
    beside = next((name for name in _SCALE_NAMES if f"{owner}.{name}" in base), None)
    if beside is not None and key not in base.held and key.endswith(".weight"):
        raise _refusal(base, f"{key} has {owner}.{beside} beside it")


def plain_group(names: BaseNames, parameter: str) -> TiedGroup:
    """The tensor of a targeted parameter, with those that share it.

    Raises
    ------
    UnsupportedError
        If it is quantized.
    TinyLoraError
        As `BaseNames.group`.
    """
    try:
        group = names.group(parameter)
    except TinyLoraError:
        module = parameter.removesuffix(".weight")
        known = names.architecture.stored_keys(parameter) if names.architecture else []
        owners = {module, module.partition(".")[2], *(key.removesuffix(".weight") for key in known)} - {""}
        longer = f".{module}"
        for key in names.base.shard_of:
            owner = _owner_in_parts(key)
            if (owner in owners or owner.endswith(longer)) and is_packed(names.base.stored(key).dtype):
                raise refusal_of_parts(names.base, module, key) from None
        raise
    refuse_packed(names.base, group.stored)
    return group


def in_parts(base: Checkpoint, architecture: Architecture | None) -> dict[str, str]:
    """Modules that hold no weight but what a packed one is made up of (`qweight`, `weight_packed`, `W_q`), by their
    names in the model, with one of these tensors. A module that holds others isn't meant, whatever buffers it has."""
    found: dict[str, str] = {}
    for key in base.shard_of:
        owner = _owner_in_parts(key)
        if owner and f"{owner}.weight" not in base and is_packed(base.stored(key).dtype):
            found.setdefault(owner, key)
    if not found:
        return found
    holding = {_owner_in_parts(key).rpartition(".")[0] for key in base.shard_of}
    weights = {f"{owner}.weight": key for owner, key in found.items() if owner not in holding}
    named = architecture.described(None).parameters_of([*base.shard_of, *weights]) if architecture else {}
    parameter_of = {key: parameter for parameter, key in named.items()}
    return {parameter_of.get(weight, weight).removesuffix(".weight"): key for weight, key in weights.items()}


def refuse_in_parts(base: Checkpoint, architecture: Architecture | None, module: str) -> None:
    """Raise UnsupportedError if a targeted module is stored in parts."""
    key = in_parts(base, architecture).get(module)
    if key is not None:
        raise refusal_of_parts(base, module, key)


def _owner_in_parts(name: str) -> str:
    """The module that a tensor may be a part of the packed weight of: `X` of `X.qweight`, `X.weight._data` and
    `X_blocks`."""
    if name.endswith(BLOCKS):
        return name.removesuffix(BLOCKS)
    owner, of_weight, _ = name.partition(".weight.")
    return owner if of_weight else name.rpartition(".")[0]


def refusal_of_parts(base: Checkpoint, module: str, key: str) -> UnsupportedError:
    """What to say of a targeted module that is stored in parts, with one of them."""
    return _refusal(base, f"{module} is stored as {key} ({base.stored(key).dtype})")


def _refusal(base: Checkpoint, what: str) -> UnsupportedError:
    return UnsupportedError(f"{what}: the base is quantized{_by(base)}", where=base.path, hint=way_out(base))


def _by(base: Checkpoint) -> str:
    method = method_of(base.config)
    return f" ({method})" if method else ""


def way_out(base: Checkpoint) -> str:
    """What to do about a base whose weights can't be adapted."""
    how = _DEQUANTIZING.get(method_of(base.config) or "")
    return f"{_ORIGINAL} Or dequantize it with transformers first: {how}, and save_pretrained." if how else _ORIGINAL


def unread(base: Checkpoint) -> Sequence[str]:
    """Tensors that hold packed weights, and aren't read as what they stand for."""
    companions = companions_of(base)
    return [key for key in base.shard_of if is_packed(base.info(key).dtype) and key not in companions]
