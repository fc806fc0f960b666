"""R = sum_i v_i P_i of live layers.

v is trained, P isn't. All of an adapter's R are formed at once at the start of a forward pass (`holding`), and its
layers take theirs. Where a layer is called otherwise, by itself or when gradient checkpointing runs it again, it forms
its own: nothing is kept from one pass to the next, so no R is ever older than its v, however v was changed.

The value is formed without a graph, and `_Mixed` ties it to v. So each use of R has a node of its own: several
backward passes, and the same layer run twice, don't share a graph that the first would free. Letters as in
`core.lowrank`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor

_HELD: ContextVar[Mapping[tuple[int, str], Tensor] | None] = ContextVar("held", default=None)


class Layer(Protocol):
    """What has a v and a P for an adapter."""

    def vector(self, adapter: str) -> Tensor: ...

    def projection(self, adapter: str) -> Tensor: ...


def mixed(layer: Layer, adapter: str) -> Tensor:
    """R of a layer, (r, r), in v's dtype and on its device; gradients reach v."""
    v, P = layer.vector(adapter), layer.projection(adapter)
    if torch.compiler.is_compiling():  # what is traced is fused, and may keep nothing
        return value(v, P)
    held = _HELD.get()
    R = None if held is None else held.get((id(layer), adapter))
    if R is None:
        with torch.no_grad():
            R = value(v, P)
    if not (torch.is_grad_enabled() and v.requires_grad):
        return R
    found: Tensor = _Mixed.apply(v, R, P)  # type: ignore[no-untyped-call]
    return found


def value(v: Tensor, P: Tensor) -> Tensor:
    """R (..., r, r) from v (..., u) and P (..., u, r, r), summed in float32 or more; not a matrix product, which
    autocast would round."""
    wide = torch.promote_types(v.dtype, torch.float32)
    return (v.to(wide)[..., None, None] * P.to(v.device, wide)).sum(-3).to(v.dtype)


@contextmanager
def holding(uses: Iterable[tuple[Layer, str]]) -> Iterator[None]:
    """Form R of layers and adapters once for what is called meanwhile."""
    token = _HELD.set(_all(uses))
    try:
        yield
    finally:
        _HELD.reset(token)


@torch.no_grad()
def _all(uses: Iterable[tuple[Layer, str]]) -> dict[tuple[int, str], Tensor]:
    """All R, those of one shape at once."""
    alike: dict[tuple[Any, ...], list[tuple[tuple[int, str], Tensor, Tensor]]] = {}
    for layer, adapter in uses:
        v, P = layer.vector(adapter), layer.projection(adapter)
        alike.setdefault((P.shape, P.device, v.device, v.dtype), []).append(((id(layer), adapter), v, P))
    found: dict[tuple[int, str], Tensor] = {}
    for same in alike.values():
        R = value(torch.stack([v for _, v, _ in same]), torch.stack([P for _, _, P in same]))
        found.update(zip([key for key, _, _ in same], R.unbind(), strict=True))
    return found


class _Mixed(torch.autograd.Function):
    """R as it is, with the gradient that it has in v: dv_i = sum(P_i dR)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, R: Tensor, P: Tensor) -> Tensor:
        return R.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        v, _, P = inputs
        ctx.save_for_backward(P)
        ctx.of_v = v.dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (dR,) = grads
        (P,) = ctx.saved_tensors
        wide = torch.promote_types(ctx.of_v, torch.float32)
        return (P.to(dR.device, wide) * dR.to(wide)).sum((-2, -1)).to(ctx.of_v), None, None
