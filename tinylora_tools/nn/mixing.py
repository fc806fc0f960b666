"""R = sum_i v_i P_i of live layers.

v is trained, P isn't. All of an adapter's R are formed at once at the start of a forward pass (`holding`), and its
layers take theirs. Where a layer is called otherwise, by itself or when gradient checkpointing runs it again, it forms
its own: nothing is kept from one pass to the next, so no R is ever older than its v, however v was changed.

`_Mixed` ties R to v in one node, for all at once as for one. It saves no tensor, of which autograd would free some in
the first of several backward passes, and count others where checkpointing forms an R again. Letters as in
`core.lowrank`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    if R is None or (torch.is_grad_enabled() and v.requires_grad and not R.requires_grad):
        (R,) = _formed([v], P[None])
    return R


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


def _formed(vectors: Sequence[Tensor], P: Tensor) -> tuple[Tensor, ...]:
    """R (r, r) of v (u,), one of each, with its P of P (n, u, r, r)."""
    apart = {id(v): v for v in vectors}
    if torch.is_grad_enabled() and any(v.requires_grad for v in apart.values()):
        places = {key: place for place, key in enumerate(apart)}
        R: Tensor = _Mixed.apply([places[id(v)] for v in vectors], P, *apart.values())  # type: ignore[no-untyped-call]
    else:
        R = value(torch.stack(list(vectors)), P)
    return R.unbind()


def _all(uses: Iterable[tuple[Layer, str]]) -> dict[tuple[int, str], Tensor]:
    """All R, those of one shape at once."""
    alike: dict[tuple[Any, ...], list[tuple[tuple[int, str], Tensor, Tensor]]] = {}
    for layer, adapter in uses:
        v, P = layer.vector(adapter), layer.projection(adapter)
        alike.setdefault((P.shape, P.device, v.device, v.dtype), []).append(((id(layer), adapter), v, P))
    found: dict[tuple[int, str], Tensor] = {}
    for same in alike.values():
        every = _formed([v for _, v, _ in same], torch.stack([P for _, _, P in same]))
        found.update(zip([key for key, _, _ in same], every, strict=True))
    return found


class _Mixed(torch.autograd.Function):
    """R (n, r, r), each of the v at its place, with the gradient that it has in them: dv_i = sum(P_i dR)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(each: list[int], P: Tensor, *vectors: Tensor) -> Tensor:
        return value(torch.stack([vectors[place] for place in each]), P)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.each, ctx.P, *vectors = inputs
        ctx.count, ctx.of_v = len(vectors), vectors[0].dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (dR,) = grads
        wide = torch.promote_types(ctx.of_v, torch.float32)
        each = (ctx.P.to(dR.device, wide) * dR.to(wide)[:, None]).sum((-2, -1))  # (n, u)
        if ctx.count == 1:
            each = each.sum(0)[None]
        elif ctx.count < len(each):  # summed in one order: index_add has none on a GPU
            which = torch.arange(ctx.count, device=each.device)[:, None] == torch.tensor(ctx.each, device=each.device)
            each = (which[:, :, None] * each).sum(1)
        return None, None, *each.to(ctx.of_v).unbind()
