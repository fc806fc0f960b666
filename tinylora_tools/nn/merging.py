"""Updates in the weights of live layers, and out of them again.

W' = round(W + sum of the adapters' updates), added in float32 or more. The weight as it was is kept beside, so that
taking updates out gives it back bit for bit, and a weight that is tied to another becomes one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import FormatError, UnsupportedError
from .layers import TinyLoraLayer
from .mixing import value


@torch.no_grad()
def update(layer: TinyLoraLayer, adapter: str) -> Tensor:
    """What an adapter adds to the layer's weight, in the shape and for the place that it is stored in; float32 or
    more."""
    A, B = layer.tinylora_A[adapter], layer.tinylora_B[adapter]
    wide = torch.promote_types(A.dtype, torch.float32)
    R = value(layer.vector(adapter).detach(), layer.projection(adapter)).to(A.device, wide)
    delta = B.to(wide) @ R @ A.to(wide)  # (out, in)
    if layer.kind == "Conv1D":
        return delta.T
    return delta / scale_of(layer.base_layer, layer.name) if layer.kind == "Embedding" else delta


@torch.no_grad()
def merge(layer: TinyLoraLayer, adapters: Sequence[str], *, safe: bool) -> None:
    """Put adapters' updates into the layer's weight, beside those that are there.

    Raises
    ------
    FormatError
        If the result isn't finite (`safe`).
    UnsupportedError
        For an embedding whose forward does more than a merged weight could.
    """
    wanted = (*layer.merged, *(one for one in adapters if one in layer.group and one not in layer.merged))
    if wanted == layer.merged:
        return
    weight = unmerged_weight(layer)
    result = sum((update(layer, adapter) for adapter in wanted), start=torch.zeros((), device=weight.device))
    wide = torch.promote_types(weight.dtype, result.dtype)
    result = (weight.to(wide) + result).to(weight.dtype)
    if safe and not bool(torch.isfinite(result).all()):
        raise FormatError(
            f"the merged weight isn't finite: check the v of {', '.join(wanted)}",
            where=layer.name,
            hint="Nothing was merged.",
        )
    layer.unmerged = [weight]
    layer.base_layer.weight = nn.Parameter(result, requires_grad=weight.requires_grad)
    layer.merged = wanted
    layer.merged_vectors = {adapter: layer.vector(adapter).detach().clone() for adapter in wanted}


def unmerge(layer: TinyLoraLayer) -> None:
    """Give the layer the weight that it had before."""
    if layer.merged:
        layer.base_layer.weight = unmerged_weight(layer)
        layer.merged, layer.unmerged, layer.merged_vectors = (), [], {}


def unmerged_weight(layer: TinyLoraLayer) -> nn.Parameter:
    """The layer's weight without updates, in the dtype and on the device that the model has by now."""
    now = layer.base_layer.weight
    if not layer.merged:
        assert isinstance(now, nn.Parameter)  # noqa: S101
        return now
    (kept,) = layer.unmerged
    if isinstance(now, Tensor) and (kept.dtype, kept.device) != (now.dtype, now.device):
        kept.data = kept.data.to(now.device, now.dtype)
    return kept


@torch.no_grad()
def scale_of(layer: nn.Module, name: str) -> float:
    """What an embedding multiplies what it looks up by, as Gemma's do: an update that is added behind it goes into the
    weight divided by it.

    Raises
    ------
    UnsupportedError
        For one that does something else, or renormalises its weight.
    """
    hint = "Leave the adapter beside the weight, or leave this module out of it."
    if getattr(layer, "max_norm", None) is not None:
        raise UnsupportedError("has max_norm: what it looks up isn't its weight", where=name, hint=hint)
    if type(layer).forward is nn.Embedding.forward:
        return 1.0
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101
    rows = torch.linalg.vector_norm(weight[:4096].float(), dim=1).topk(min(16, len(weight), 4096)).indices
    looked_up = weight[rows].double()
    found = layer(rows[None])[0].double()
    scale = float((found * looked_up).sum() / (looked_up**2).sum())
    off = float(torch.linalg.vector_norm(found - scale * looked_up) / torch.linalg.vector_norm(found))
    if not off < 0.01 or scale == 0.0:  # NaN too; the 16-bit output's rounding is a few thousandths
        raise UnsupportedError(
            f"{type(layer).__name__} does more than look up and scale, so its update can't be merged",
            where=name,
            hint=hint,
        )
    return scale
