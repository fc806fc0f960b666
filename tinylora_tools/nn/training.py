"""Which parameters of a model with adapters are trained, and what may be asked of its adapters together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ..errors import MismatchError, UnsupportedError
from ..formats.peft.config import TinyLoraConfig
from .content import Content
from .layers import TinyLoraLayer
from .live import base_names
from .shared import BASE, Shared
from .whole import WholeModule


def freeze(model: nn.Module) -> None:
    """Have none of the base's own parameters trained."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def layers_of(model: nn.Module) -> list[TinyLoraLayer]:
    """The model's adapted layers, in its order."""
    return [module for module in model.modules() if isinstance(module, TinyLoraLayer)]


def set_trainable(model: nn.Module, shared: Shared, contents: Mapping[str, Content], names: Iterable[str]) -> None:
    """Have what adapters train trained, and nothing else: v, biases, and modules that are trained whole."""
    freeze(model)
    for name, vectors in shared.vectors.items():
        vectors.requires_grad_(name in names)
    for name in names:
        bias = contents[name].config.bias
        for _, module in base_names(model):
            if isinstance(module, WholeModule):
                if name in module.modules_to_save:
                    module.modules_to_save[name].requires_grad_(True)
                continue
            adapted = isinstance(module, TinyLoraLayer) and name in module.group
            own = (module.base_layer if isinstance(module, TinyLoraLayer) else module)._parameters.get("bias")
            if own is not None and (bias == "all" or (bias == "tinylora_only" and adapted)):
                own.requires_grad_(True)


def require_one_with_bias(config: TinyLoraConfig, contents: Mapping[str, Content]) -> None:
    """Raise UnsupportedError for a second adapter that trains the base's biases."""
    other = next((name for name, one in contents.items() if one.config.bias != "none"), None)
    if config.bias != "none" and other is not None:
        raise UnsupportedError(
            f"bias is {config.bias!r}, and the adapter {other!r} trains the base's biases already",
            hint="Only one adapter of a model may: give the others bias='none'.",
        )


def require_apart(model: nn.Module, names: Sequence[str]) -> None:
    """Raise MismatchError for adapters that can't be active together: that train the same module whole."""
    for module in model.modules():
        if isinstance(module, WholeModule):
            both = [name for name in names if name in module.modules_to_save]
            if len(both) > 1:
                raise MismatchError(
                    f"{both[0]!r} and {both[1]!r} each have a {module.name} of their own, so they can't be active "
                    "together",
                    hint="Choose one of them.",
                )


def require_rows(rows: tuple[str, ...], contents: Mapping[str, Content], layers: Sequence[TinyLoraLayer]) -> None:
    """Raise MismatchError for rows of a batch that can't have these adapters."""
    for name in dict.fromkeys(rows):
        if name != BASE and name not in contents:
            known = ", ".join(map(repr, (*contents, BASE)))
            raise MismatchError(f"adapter_names names {name!r}, which isn't there", hint=f"There are: {known}.")
        if name != BASE and contents[name].config.bias != "none":
            raise UnsupportedError(
                f"{name!r} trains the base's biases, which all rows have in common", hint="Run it by itself."
            )
    if any(layer.merged for layer in layers):
        raise MismatchError("adapters are merged, so rows can't have their own", hint="Call unmerge_adapter first.")
    experts = next((layer.name for layer in layers if "expert" in layer.name), None)
    if experts is not None:
        raise UnsupportedError(
            f"{experts} gets tokens, not the batch's rows, so rows can't have adapters of their own",
            hint="Run the adapters one after the other, with set_adapter.",
        )


def require_as_merged(layers: Sequence[TinyLoraLayer]) -> None:
    """Raise MismatchError where a v isn't the one that was merged."""
    for layer in layers:
        for name in layer.merged:
            if not torch.equal(layer.merged_vectors[name], layer.vector(name)):
                raise MismatchError(
                    f"v of {name!r} has changed since it was merged, so the weights hold another update",
                    where=layer.name,
                    hint="Call unmerge_adapter, and merge_adapter again.",
                )


def bare(model: nn.Module, *, merged: bool) -> nn.Module:
    """The model with its layers instead of those around them."""
    for path, module in list(base_names(model)):
        parent, _, last = path.rpartition(".")
        if isinstance(module, TinyLoraLayer):
            module.merged, module.unmerged = (), []
            setattr(model.get_submodule(parent), last, module.base_layer)
        elif isinstance(module, WholeModule):
            setattr(model.get_submodule(parent), last, module.current)
    if merged:
        _say_untied(model)
    return model


def _say_untied(model: nn.Module) -> None:
    """Have the configuration say where input and output embeddings share no weight any more."""
    with suppress(NotImplementedError, AttributeError):
        own: Any = model
        config, first, last = own.config, own.get_input_embeddings(), own.get_output_embeddings()
        if first is None or last is None or first.weight is last.weight:
            return
        parts: list[Any] = [config, getattr(config, "text_config", None)]
        for part in parts:
            if getattr(part, "tie_word_embeddings", False):
                part.tie_word_embeddings = False
