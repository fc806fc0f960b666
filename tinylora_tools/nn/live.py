"""The modules of a live model, under the names that they have in the base: what adapters have put around them is
looked through."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..bases.selection import Selection, select
from ..errors import UnsupportedError
from ..formats.peft.config import TinyLoraConfig
from .layers import TinyLoraLayer
from .whole import WholeModule

#: The weights that factors are made of.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class LiveModule:
    """A module that can be targeted: its name, its kind ("Linear", "Conv1D" or "Embedding"), and the base's layer."""

    name: str
    kind: str
    layer: nn.Module

    @property
    def weight(self) -> Tensor:
        """W (out, in), or (vocab, dim): a Conv1D's transposed."""
        W = self.layer.get_parameter("weight").detach()
        return W.T if self.kind == "Conv1D" else W


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A live model as targets are chosen in it (`bases.selection.Targetable`)."""

    modules: Mapping[str, LiveModule]
    others: frozenset[str]
    input: str | None
    output: str | None
    model_type: str | None
    trained_whole: frozenset[str]

    def inner_names(self) -> set[str]:
        """Names of modules that can't be targeted."""
        return set(self.others)


def base_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module by its name in the base, once, in the model's order; wrapped ones as what they wrap."""
    hidden, renamed = "\0", ""
    whole = "\0"
    for name, module in model.named_modules():
        if name.startswith(hidden):
            continue
        if isinstance(module, TinyLoraLayer):
            hidden, renamed = f"{name}.", ""
            yield name, module
        elif isinstance(module, WholeModule):
            whole = f"{name}."
            renamed = f"{name}.original_module"
            hidden = f"{name}.modules_to_save"
            yield name, module
        elif name.startswith(whole):
            if name != renamed:
                yield whole + name.removeprefix(f"{renamed}."), module
        else:
            yield name, module


def look_at(model: nn.Module) -> LiveModel:
    """The model's modules, by what they are."""
    conv = _conv1d()
    modules: dict[str, LiveModule] = {}
    others, whole, names = set(), set(), {}
    for name, module in base_names(model):
        names[id(module)] = name
        if isinstance(module, WholeModule):
            whole.add(name)
            module = module.original_module
        layer = module.base_layer if isinstance(module, TinyLoraLayer) else module
        kinds = ((nn.Linear, "Linear"), (nn.Embedding, "Embedding"), *(((conv, "Conv1D"),) if conv else ()))
        kind = next((word for one, word in kinds if isinstance(layer, one)), None)
        if kind is None:
            others.add(name)
        elif name:
            modules[name] = LiveModule(name, kind, layer)
    config = getattr(model, "config", None)
    return LiveModel(
        modules,
        frozenset(others - {""}),
        names.get(id(_embeddings(model, "get_input_embeddings"))),
        names.get(id(_embeddings(model, "get_output_embeddings"))),
        config.get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None),
        frozenset(whole),
    )


def targets(model: nn.Module, config: TinyLoraConfig) -> Selection[LiveModule]:
    """The modules that a new adapter adapts, in the model's order.

    Raises
    ------
    TinyLoraError
        As `bases.selection.select`; and for a module whose output isn't its own forward's, a weight of another kind, or
        one inside a module that another adapter trains whole.
    """
    live = look_at(model)
    selection = select(live, config, type(model).__name__)
    for module in selection.modules:
        require_adaptable(model, module, live.trained_whole)
    return selection


def require_adaptable(model: nn.Module, module: LiveModule, trained_whole: frozenset[str]) -> None:
    """Raise UnsupportedError for a module that can't be adapted, or not faithfully."""
    name, weight = module.name, getattr(module.layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.dtype not in _FLOATS:
        what = "no weight" if not isinstance(weight, Tensor) else f"a weight of {weight.dtype}, {tuple(weight.shape)}"
        raise UnsupportedError(
            f"has {what}: factors are made of a matrix of plain numbers",
            where=name,
            hint="Load the model without quantization, or leave the module out.",
        )
    if any(name == one or name.startswith(f"{one}.") for one in trained_whole):
        raise UnsupportedError(
            "is trained whole by another adapter (modules_to_save), so it can't be adapted beside it",
            where=name,
            hint="Delete that adapter first, or load each into a model of its own.",
        )
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
        raise UnsupportedError(
            f"torch's {type(parent).__name__} reads this module's weight past its forward, so an update beside it "
            "would be passed over",
            where=name,
            hint="Leave it out of the targets, or replace the block with one that calls its layers.",
        )


def _conv1d() -> type[nn.Module] | None:
    """transformers' Conv1D; None where transformers wasn't imported, and so no model can have one."""
    module: Any = sys.modules.get("transformers.pytorch_utils")
    found: type[nn.Module] | None = getattr(module, "Conv1D", None)
    return found


def _embeddings(model: nn.Module, getter: str) -> object:
    """The model's input or output embedding; a new object where it has none."""
    with suppress(NotImplementedError, AttributeError):
        found: object = getattr(model, getter)()
        return object() if found is None else found
    return object()
