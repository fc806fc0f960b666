"""What an adapter brings into a live model: made anew from the model's weights, or read from an open adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..adapters import soundness
from ..adapters.load import Adapter
from ..core.initial import uniform_vector
from ..core.lowrank import training_dtype
from ..core.residual import Triplets, verdict_on
from ..core.residual_torch import residual_of
from ..core.streams import projection
from ..core.svd.triplets import rounded_as_peft, top_triplets
from ..core.torch_arrays import tensor_of
from ..core.tying import group_of
from ..errors import FormatError, MismatchError
from ..formats.peft.config import TinyLoraConfig
from .layers import TinyLoraLayer
from .live import LiveModel, LiveModule, base_names, look_at, require_adaptable, targets

_WIDENED = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Content:
    """An adapter's values for a model.

    Attributes
    ----------
    config : TinyLoraConfig
    modules : tuple of LiveModule
        Those it adapts, in the model's order.
    factors : Mapping[str, tuple[Tensor, Tensor]]
        A (r, in) and B (out, r) by module, each on its weight's device.
    projections : Mapping[str, Tensor]
        P (u, r, r).
    group : Mapping[str, int]
        The group of each module.
    vectors : Mapping[int, Tensor]
        v (u,) of each group.
    whole : Mapping[str, NDArray]
        Parameters of the base that it brings: by their name there.
    drawn : bool
        Whether each P is what the seed of the module's own place draws, so that a file may leave it out.
    as_counted : bool
        Whether groups are numbered as PEFT counts them for such a configuration.
    notes : tuple of str
    """

    config: TinyLoraConfig
    modules: tuple[LiveModule, ...]
    factors: Mapping[str, tuple[Tensor, Tensor]]
    projections: Mapping[str, Tensor]
    group: Mapping[str, int]
    vectors: Mapping[int, Tensor]
    whole: Mapping[str, NDArray[Any]]
    drawn: bool = True
    as_counted: bool = True
    notes: tuple[str, ...] = ()

    def without_values(self) -> Content:
        """The same without what lies in the model now."""
        return replace(self, modules=(), factors={}, projections={}, vectors={}, whole={})


def new_content(model: nn.Module, config: TinyLoraConfig, *, init_seed: int, stream: str, widen: bool) -> Content:
    """A new adapter of a model, as PEFT makes it.

    Raises
    ------
    TinyLoraError
        For settings that PEFT refuses, targets that match nothing or what can't be adapted, weights that aren't finite.
    """
    config.check()
    selection = targets(model, config)
    modules, many = selection.modules, len(selection.modules)
    config.check(many)
    _require_saved(model, config)
    kinds = [module.kind for module in modules if module.kind != "Embedding"]
    config = replace(
        config,
        target_modules=selection.target_modules,
        fan_in_fan_out=kinds[-1] == "Conv1D" if kinds else config.fan_in_fan_out,  # what PEFT's last layer leaves
    )
    whole_weights = {layer.name: layer.unmerged[0].detach() for layer in _merged(model)}
    group = {module.name: group_of(i, many, config.weight_tying) for i, module in enumerate(modules)}
    factors, projections, vectors = {}, {}, {}
    weights = [_unmerged_weight(module, whole_weights) for module in modules]
    made = [_factors(module.name, W, config.r) for module, W in zip(modules, weights, strict=True)]
    seeds = range(config.projection_seed, config.projection_seed + many)
    ranks, dtypes = [A.shape[0] for A, _ in made], [_name(W.dtype) for W in weights]
    drawn = projection.draw_rounded(seeds, config.u, ranks, dtypes, stream=stream)
    for module, W, (A, B), P in zip(modules, weights, made, drawn, strict=True):
        dtype = torch.float32 if widen and W.dtype in _WIDENED else W.dtype
        at = torch.device("cpu") if W.is_meta else W.device
        factors[module.name] = A.to(dtype), B.to(dtype)
        projections[module.name] = tensor_of(P).to(at, dtype)
        if group[module.name] not in vectors:
            vectors[group[module.name]] = _start(config, group[module.name], init_seed, W.dtype).to(at, dtype)
    return Content(config, modules, factors, projections, group, vectors, {})


def content_of(model: nn.Module, adapter: Adapter, *, check_base: bool, widen: bool) -> Content:
    """An open adapter for a model.

    Raises
    ------
    MismatchError
        For an adapter of another model: modules that this one hasn't got, other shapes, or (`check_base`) factors that
        aren't its weights'.
    TinyLoraError
        For an adapter that isn't sound, or whose P or groups can't be known.
    """
    soundness.check(adapter)
    live = look_at(model)
    modules = _modules_of(model, live, adapter)
    whole = {name: adapter.header.file.read(one.tensor.name) for name, one in adapter.header.replaced.items()}
    notes = list(adapter.notes)
    if check_base:
        notes += _checked_against(modules, adapter, whole, {one.name: one for one in _merged(model)})
    group, as_counted = _groups(adapter, [module.name for module in modules])
    factors, projections = {}, {}
    drawn = adapter.projections()
    for module in modules:
        at = torch.device("cpu") if module.weight.is_meta else module.weight.device

        def placed(array: NDArray[Any], at: torch.device = at) -> Tensor:
            found = tensor_of(array)
            return found.to(at, torch.float32 if widen and found.dtype in _WIDENED else found.dtype, copy=True)

        A, B = (placed(part) for part in adapter.factors(module.name))
        factors[module.name] = A, B
        projections[module.name] = placed(drawn[module.name]).to(A.dtype)
    vectors = {}
    for name, number in group.items():
        if number not in vectors:
            v = tensor_of(adapter.vector(adapter.groups[name]))
            dtype = torch.float32 if widen and v.dtype in _WIDENED else v.dtype
            vectors[number] = v.to(factors[name][0].device, dtype, copy=True)
    own_places = all(adapter.header.modules[m.name].P is None for m in modules) and all(
        adapter.places[module.name] == i for i, module in enumerate(modules)
    )
    return Content(
        adapter.config, modules, factors, projections, group, vectors, whole, own_places, as_counted, tuple(notes)
    )


def _require_saved(model: nn.Module, config: TinyLoraConfig) -> None:
    names = [name for name, _ in base_names(model)]
    for wanted in config.modules_to_save:
        if wanted not in config.heads and not any(name.endswith(wanted) for name in names):
            raise MismatchError(
                f"modules_to_save names {wanted!r}, and the model has no such module",
                where=type(model).__name__,
                hint="Check the spelling against model.named_modules().",
            )


def _merged(model: nn.Module) -> list[TinyLoraLayer]:
    return [module for module in model.modules() if isinstance(module, TinyLoraLayer) and module.merged]


def _unmerged_weight(module: LiveModule, kept: Mapping[str, Tensor]) -> Tensor:
    W = kept.get(module.name)
    return module.weight if W is None else W.T if module.kind == "Conv1D" else W


def _factors(name: str, W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in float32, on W's device; without values where W has none."""
    if W.is_meta:
        rank = min(r, *W.shape)
        return W.new_empty(rank, W.shape[1], dtype=torch.float32), W.new_empty(W.shape[0], rank, dtype=torch.float32)
    try:
        return rounded_as_peft(top_triplets(W, r), W.dtype)
    except FormatError as error:
        raise FormatError(error.what, where=name, hint="Load the model's weights first.") from None


def _start(config: TinyLoraConfig, group: int, init_seed: int, dtype: torch.dtype) -> Tensor:
    if config.init_weights != "uniform":
        return torch.zeros(config.u)
    return tensor_of(uniform_vector(config.u, config.init_v_bound, init_seed, group)).to(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _modules_of(model: nn.Module, live: LiveModel, adapter: Adapter) -> tuple[LiveModule, ...]:
    """The adapter's modules in the model's order."""
    absent = [name for name in adapter.modules if name not in live.modules]
    if absent:
        more = f" and {len(absent) - 1} more of its modules" if len(absent) > 1 else ""
        raise MismatchError(
            f"{type(model).__name__} has no Linear, Conv1D or Embedding called {absent[0]}{more}",
            where=adapter.path,
            hint="Load the model that the adapter was trained on, by the same class.",
        )
    found = tuple(module for name, module in live.modules.items() if name in adapter.modules)
    for module in found:
        require_adaptable(model, module, live.trained_whole)
        parts, shape = adapter.modules[module.name], tuple(module.weight.shape)
        if (parts.out_features, parts.in_features) != shape:
            raise MismatchError(
                f"{module.name}: the adapter's factors are for a weight of shape "
                f"{(parts.out_features, parts.in_features)}, the model's is {shape}",
                where=adapter.path,
                hint="Load the model that the adapter was trained on; where its vocabulary was resized, resize this "
                "one, too: model.resize_token_embeddings.",
            )
    return found


def _checked_against(
    modules: tuple[LiveModule, ...],
    adapter: Adapter,
    whole: Mapping[str, NDArray[Any]],
    merged: Mapping[str, TinyLoraLayer],
) -> list[str]:
    """A note on weights that moved since they were factored; MismatchError where they are another model's."""
    moved = []
    kept = {name: layer.unmerged[0].detach() for name, layer in merged.items()}
    for module in modules:
        weight = _unmerged_weight(module, kept)
        if weight.is_meta:
            continue
        brought = whole.get(f"{module.name}.weight")
        W = weight if brought is None else tensor_of(brought.T if module.kind == "Conv1D" else brought)
        A, B = adapter.factors(module.name)
        wide = np.dtype(np.float64 if W.dtype.itemsize > 4 else np.float32)
        rho = residual_of(W, Triplets.from_factors(A, B, wide))
        verdict = verdict_on(rho, training_dtype(A, B), str(W.dtype).removeprefix("torch."))
        if verdict == "other":
            raise MismatchError(
                f"{module.name}: the adapter's factors aren't this weight's (off by {rho:.2g} of its largest singular "
                "value)",
                where=adapter.path,
                hint="Load the model that the adapter was trained on, or say check_base=False to add its update "
                "regardless.",
            )
        if verdict == "moved":
            moved.append(module.name)
    if not moved:
        return []
    more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
    return [f"{moved[0]}{more}: the weight has moved since the adapter's factors were made of it"]


def _groups(adapter: Adapter, order: list[str]) -> tuple[dict[str, int], bool]:
    """Each module's group by its own count, which a file goes by; or, where the adapter's groups can't be counted so
    (of an added adapter of PEFT 0.19), by the adapter's numbers."""
    own = {name: group_of(i, len(order), adapter.config.weight_tying) for i, name in enumerate(order)}
    pairs = {(own[name], adapter.groups[name]) for name in order}
    alike = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    return (own, True) if alike else ({name: adapter.groups[name] for name in order}, False)
