"""A x of layers that get the same input, as one product: x is read once for all of them.

Which layers those are, models' code says by their names: q, k and v of an attention, gate and up of a gated MLP.
Whether they do get the same tensor is seen when they are called; in a cross-attention k and v get another one than q,
and what was formed for them in vain is let go. Nothing is learned from one pass to the next: a layer that gradient
checkpointing runs again does what it did. Layers are those of `layers`, which knows this module.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

#: Names of layers that get one input, within the module that has them.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


#: Elements of an input from which on a product for all of its layers takes less time than one for each.
_WORTHWHILE = 1 << 15


class Siblings:
    """Layers of one module that get one input, as far as they are adapted."""

    def __init__(self) -> None:
        self.layers: list[Any] = []
        self._last: _Formed | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"layers": self.layers, "_last": None}

    def product(self, layer: Any, adapter: str, A: Tensor, x: Tensor, *, alone: bool = False) -> Tensor:
        """A x (..., r) of a layer, in A's dtype; `alone` says that nobody else gets this x."""
        few = alone or len(self.layers) < 2 or x.numel() < _WORTHWHILE
        if few or torch.compiler.is_compiling() or not _passes(layer, adapter):
            if not _passes(layer, adapter):
                x = layer.tinylora_dropout[adapter](x)
            return F.linear(x if x.dtype == A.dtype else x.to(A.dtype), A)
        last = self._last
        if last is not None and last.is_of(x, adapter) and (found := last.parts.pop(id(layer), None)) is not None:
            return found
        alike = [one for one in self.layers if _is_alike(one, adapter, A)]
        each = [one.tinylora_A[adapter] for one in alike]
        whole = F.linear(x.to(A.dtype), torch.cat(each))  # (..., r of all)
        split = torch.split(whole, [len(one) for one in each], dim=-1)
        parts: dict[int, Tensor] = dict(zip(map(id, alike), split, strict=True))
        mine = parts.pop(id(layer))
        self._last = _Formed(x, adapter, parts)
        return mine

    def let_go(self) -> None:
        """Keep nothing of what was formed."""
        self._last = None


class _Formed:
    """Products of an input that wait for their layers."""

    def __init__(self, x: Tensor, adapter: str, parts: dict[int, Tensor]) -> None:
        self._x, self._state, self.parts = weakref.ref(x), _state_of(x, adapter), parts

    def is_of(self, x: Tensor, adapter: str) -> bool:
        return self._x() is x and self._state == _state_of(x, adapter)


def _state_of(x: Tensor, adapter: str) -> tuple[Any, ...]:
    """All that a product of the same tensor may depend on."""
    version = None if x.is_inference() else x._version
    device = x.device.type
    return adapter, version, torch.is_grad_enabled(), torch.is_autocast_enabled(device)


def _is_alike(one: Any, adapter: str, A: Tensor) -> bool:
    if adapter not in one.group or not _passes(one, adapter):
        return False
    other = one.tinylora_A[adapter]
    return (other.shape[1], other.dtype, other.device) == (A.shape[1], A.dtype, A.device)


def _passes(layer: Any, adapter: str) -> bool:
    """Whether an adapter's dropout leaves the input alone."""
    dropout = layer._modules["tinylora_dropout"]._modules[adapter]
    return isinstance(dropout, torch.nn.Identity) or not dropout.training


def siblings_of(names: Sequence[str]) -> Mapping[str, Siblings]:
    """For each of these layers, by their names in the model, those that it gets its input with."""
    together: dict[str, Siblings] = {}
    found: dict[str, Siblings] = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        key = next((f"{owner} {some[0]}" for some in TOGETHER if last in some), name)
        found[name] = together.setdefault(key, Siblings())
    return found
