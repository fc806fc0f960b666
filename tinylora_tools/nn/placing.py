"""An adapter's layers, vectors and whole modules into a live model, and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ..core.torch_arrays import tensor_of
from ..errors import MismatchError
from .content import Content
from .layers import Linear, TinyLoraLayer, wrapped
from .live import base_names
from .products import siblings_of
from .shared import Shared
from .whole import WholeModule


def place(model: nn.Module, shared: Shared, name: str, content: Content) -> None:
    """Put an adapter into a model, frozen and not active. Everything has been checked before, or is here first."""
    whole = _whole_modules(model, content)
    _require_room(model, whole, content.whole)
    keep = content.config.save_projection or not content.drawn
    for module in content.modules:
        layer = model.get_submodule(module.name)
        if not isinstance(layer, TinyLoraLayer):
            layer = wrapped(module.layer, shared, module.name, module.kind)
            _replace(model, module.name, layer)
        A, B = content.factors[module.name]
        group = str(content.group[module.name])
        dropout = content.config.tinylora_dropout
        P = content.projections[module.name]
        layer.put(name, A, B, P, group, dropout=dropout, keep_projection=keep)
    _introduce(model)
    vectors = nn.ParameterDict()
    for number, v in content.vectors.items():
        vectors[str(number)] = nn.Parameter(v, requires_grad=False)
    shared.vectors[name] = vectors
    for path in whole:
        place_of = model.get_submodule(path)
        if not isinstance(place_of, WholeModule):
            place_of = WholeModule(place_of, shared, path)
            _replace(model, path, place_of)
        place_of.put(name)
    _fill(model, name, whole, content.whole)


def take_away(model: nn.Module, shared: Shared, name: str) -> None:
    """Remove an adapter; what has none left becomes the base's own module again."""
    for path, module in list(base_names(model)):
        if isinstance(module, TinyLoraLayer) and name in module.group:
            module.drop(name)
            if not module.group:
                _replace(model, path, module.base_layer)
        elif isinstance(module, WholeModule) and name in module.modules_to_save:
            del module.modules_to_save[name]
            if not len(module.modules_to_save):
                _replace(model, path, module.original_module)
    _introduce(model)
    del shared.vectors[name]


def _introduce(model: nn.Module) -> None:
    """Tell layers which others get the same input."""
    layers = {path: module for path, module in base_names(model) if isinstance(module, Linear)}
    for path, siblings in siblings_of([*layers]).items():
        layers[path].siblings = siblings
        siblings.layers.append(layers[path])


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _whole_modules(model: nn.Module, content: Content) -> list[str]:
    """The modules that the adapter trains whole, as PEFT looks for them: by the end of their name, the outer ones."""
    saved = content.config.saved
    found: list[str] = []
    for path, _ in base_names(model):
        if path and path.endswith(saved) and not any(path.startswith(f"{one}.") for one in found):
            found.append(path)
    for path in found:
        inside = model.get_submodule(path)
        if isinstance(inside, (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)):
            raise MismatchError(
                f"modules_to_save names {path}, a {type(inside).__name__}, which can't be called",
                hint="Name the modules in it.",
            )
        if any(isinstance(one, TinyLoraLayer) for one in inside.modules()):
            raise MismatchError(
                f"modules_to_save names {path}, which holds layers that an adapter adapts",
                hint="Train a module in one of the two ways.",
            )
    return found


def _home(whole: list[str], parameter: str) -> str | None:
    return next((path for path in whole if parameter.startswith(f"{path}.")), None)


def _require_room(model: nn.Module, whole: list[str], brought: Mapping[str, NDArray[Any]]) -> None:
    """Raise MismatchError for a parameter that the model hasn't got, or has in another shape."""
    known: dict[str, tuple[int, ...]] = {}
    for path, module in base_names(model):
        inner = module.base_layer if isinstance(module, TinyLoraLayer) else module
        inner = inner.original_module if isinstance(inner, WholeModule) else inner
        for key, tensor in inner.state_dict().items() if path in whole else inner.named_parameters(recurse=False):
            known[f"{path}.{key}" if path else key] = tuple(tensor.shape)
    for parameter, values in brought.items():
        if known.get(parameter) != values.shape:
            there = f"in shape {known[parameter]}" if parameter in known else "not at all"
            raise MismatchError(
                f"the adapter brings {parameter} in shape {values.shape}, the model has it {there}",
                where=type(model).__name__,
                hint="Load the model by the class, and with the labels, that it was trained with.",
            )


@torch.no_grad()
def _fill(model: nn.Module, name: str, whole: list[str], brought: Mapping[str, NDArray[Any]]) -> None:
    for parameter, values in brought.items():
        home = _home(whole, parameter)
        if home is not None:
            module = model.get_submodule(f"{home}.modules_to_save.{name}")
            target = module.state_dict(keep_vars=True)[parameter.removeprefix(f"{home}.")]
        else:
            owner, _, last = parameter.rpartition(".")
            layer = model.get_submodule(owner)
            layer = layer.base_layer if isinstance(layer, TinyLoraLayer) else layer
            layer = layer.original_module if isinstance(layer, WholeModule) else layer
            target = layer.get_parameter(last)
        target.copy_(tensor_of(values))
