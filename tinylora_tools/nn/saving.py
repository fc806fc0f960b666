"""A live model's adapters in PEFT's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bases.selection import is_saved_embedding, may_save_embeddings
from ..core.torch_arrays import array_of
from ..errors import FormatError, UnsupportedError
from ..formats.json_file import read_object
from ..formats.peft.adapter import WEIGHTS_NAMES
from ..formats.peft.config import CONFIG_NAME, TinyLoraConfig
from ..formats.peft.keys import ROOT, again_keys, base_key, factor_key, vector_key
from ..formats.safetensors_writer import write_file
from ..formats.tensors import DTYPE_BITS, dtype_name
from ..output.staging import check_file, staged_directory, staged_file
from .content import Content
from .layers import TinyLoraLayer
from .live import base_names, look_at
from .whole import WholeModule


def adapter_tensors(
    model: nn.Module, vectors: Mapping[str, Tensor], adapter: str, content: Content
) -> dict[str, Tensor]:
    """An adapter's tensors by the keys of PEFT's file; P where the configuration, or need, keeps it.

    Raises
    ------
    FormatError
        For a v that isn't finite.
    UnsupportedError
        For groups that PEFT's file can't say.
    """
    if not content.as_counted:
        raise UnsupportedError(
            "its groups aren't those that PEFT counts for its configuration, so PEFT's files can't hold it",
            where=adapter,
            hint="It comes from PEFT 0.19, added to another adapter. Save its update with sync_lora, or merge it.",
        )
    found = {vector_key(int(group)): gathered(v) for group, v in vectors.items()}
    for key, v in found.items():
        if not bool(torch.isfinite(v).all()):
            raise FormatError(
                f"{key} of {adapter!r} holds NaN or Inf",
                hint="Training diverged: go back to a state from before, or start anew with a smaller learning rate.",
            )
    keep = keeps_projection(content)
    layers = {name: one for name, one in base_names(model) if isinstance(one, TinyLoraLayer) and adapter in one.group}
    for name, layer in layers.items():
        found[factor_key(name, "A")] = layer.tinylora_A[adapter]
        found[factor_key(name, "B")] = layer.tinylora_B[adapter]
        if keep:
            found[factor_key(name, "P")] = layer.tinylora_P[adapter]
    return found | whole_tensors(model, adapter, content.config)


def keeps_projection(content: Content) -> bool:
    """Whether P goes into a file: where it was asked for, or where the seed wouldn't draw it again."""
    return content.config.save_projection or not content.drawn


def whole_tensors(model: nn.Module, adapter: str, config: TinyLoraConfig) -> dict[str, Tensor]:
    """What an adapter brings of the base: modules_to_save, biases, and embeddings that are targeted by name."""
    found: dict[str, Tensor] = {}
    resized = _resized(model, config)
    if config.bias == "none" and not config.saved and not (resized or may_save_embeddings(config.target_modules or ())):
        return found
    live, inside = look_at(model), _inside_whole(model, adapter)
    by_name = any(
        is_saved_embedding(name, live, config.target_modules or ()) for name in (live.input, live.output) if name
    )
    for name, module in base_names(model):
        if isinstance(module, WholeModule) and adapter in module.modules_to_save:
            for key, tensor in module.modules_to_save[adapter].state_dict().items():
                found[f"{ROOT}{name}.{key}"] = gathered(tensor)
                if config.bias == "all" and (key == "bias" or key.endswith(".bias")):
                    original = gathered(module.original_module.get_parameter(key))
                    first, again = again_keys(name, f"{name}.{key}")
                    found |= {first: original, again: gathered(tensor)}
            continue
        targeted = isinstance(module, TinyLoraLayer) and adapter in module.group
        layer = module.base_layer if isinstance(module, TinyLoraLayer) else module
        bias = layer._parameters.get("bias")
        trained = config.bias == "all" or (config.bias == "tinylora_only" and targeted)
        if bias is not None and trained and name not in inside:
            found[base_key(name, "bias", wrapped=isinstance(module, TinyLoraLayer))] = gathered(bias)
        embedding = name in (live.input, live.output) and (targeted if by_name else resized)
        if embedding:
            state = layer.state_dict()
            wrapped = isinstance(module, TinyLoraLayer)
            found |= {base_key(name, key, wrapped=wrapped): gathered(tensor) for key, tensor in state.items()}
    return found


def _resized(model: nn.Module, config: TinyLoraConfig) -> bool:
    """Whether the vocabulary isn't the one of the base that the adapter names, where that is at hand: the embeddings
    then belong to the adapter."""
    named = config.base_model_name_or_path or vars(model).get("name_or_path")
    own = getattr(getattr(model, "config", None), "vocab_size", None)
    at = Path(named) / "config.json" if isinstance(named, str) and named else None
    if own is None or at is None or not at.is_file():
        return False
    before = read_object(at).get("vocab_size")
    return before is not None and before != own


def _inside_whole(model: nn.Module, adapter: str) -> set[str]:
    found = set()
    for name, module in base_names(model):
        if isinstance(module, WholeModule) and adapter in module.modules_to_save:
            found |= {f"{name}.{inner}" if inner else name for inner, _ in module.original_module.named_modules()}
    return found


def gathered(tensor: Tensor) -> Tensor:
    """A tensor without its graph; whole, where it is sharded over processes (all of them have to ask)."""
    whole = getattr(tensor.detach(), "full_tensor", None)
    return tensor.detach() if whole is None else whole()


def written_config(model: nn.Module, content: Content) -> dict[str, Any]:
    """adapter_config.json, as PEFT 0.21.2 writes it."""
    config = content.config
    named = config.base_model_name_or_path or vars(model).get("name_or_path") or None
    kind = type(model)
    mapping = None if config.task_type else {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return replace(
        config,
        base_model_name_or_path=named,
        auto_mapping=mapping,
        save_projection=keeps_projection(content),
    ).to_json()


def write(directory: Path, adapters: Mapping[str, tuple[dict[str, Tensor], dict[str, Any]]], *, force: bool) -> None:
    """Write adapters, tensors and configuration by name: "default" into the directory, others into directories of
    their own in it.

    A new directory appears whole. In one that exists each file is replaced by itself, and others are left alone.

    Raises
    ------
    OutputError
        If files are there already (and `force` isn't given), or can't be written.
    """
    if not directory.exists():
        with staged_directory(directory, force=force, inputs=[]) as staged:
            for name, (tensors, config) in adapters.items():
                place = staged if name == "default" else staged / name
                place.mkdir(exist_ok=True)
                _write_weights(place / WEIGHTS_NAMES[0], tensors)
                _write_config(place / CONFIG_NAME, config)
        return
    places = {name: directory if name == "default" else directory / name for name in adapters}
    for place in places.values():
        for file in (WEIGHTS_NAMES[0], CONFIG_NAME):
            check_file(place / file, force=force)
    for name, (tensors, config) in adapters.items():
        with staged_file(places[name] / WEIGHTS_NAMES[0], force=force) as whole:
            _write_weights(whole, tensors)
        with staged_file(places[name] / CONFIG_NAME, force=force) as whole:
            _write_config(whole, config)


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_file(path, _ordered(_arrays(tensors)), {"format": "pt"})


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {key: array_of(tensor) for key, tensor in tensors.items()}


def _ordered(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """As safetensors orders them: wide ones first, then by name."""
    return dict(sorted(arrays.items(), key=lambda item: (-DTYPE_BITS[dtype_name(item[1].dtype)], item[0])))
