"""Linear, Conv1D and Embedding layers with TinyLoRA's updates beside them.

A layer wraps the base's own as `base_layer`; A, B and P are buffers by the adapter's name, and the trained vectors are
the model's (`shared`). With W (out, in) the layer's weight, its output gets x A^T R^T B^T; an embedding, W (vocab,
dim), gets B[x] R A, behind any scale of its own. As PEFT computes it (peft/tuners/tinylora/layer.py of PEFT 0.21.2), in
the factors' dtype, and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor, nn

from ..errors import MismatchError
from .mixing import mixed
from .products import Siblings
from .shared import Buffers, Shared


class TinyLoraLayer(nn.Module):
    """What a targeted layer is replaced with; what it hasn't got itself, it has of the layer inside.

    Attributes
    ----------
    base_layer : nn.Module
    kind : str
        "Linear", "Conv1D" or "Embedding".
    name : str
        The layer's name in the base model.
    group : dict[str, str]
        Adapter to the group whose v this layer uses.
    merged : tuple of str
        The adapters whose updates are in the weight; `unmerged` then has the weight as it was, and `merged_vectors` the
        v that were merged.
    """

    def __init__(self, base_layer: nn.Module, shared: Shared, name: str, kind: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tinylora_dropout = nn.ModuleDict()
        self.tinylora_A = Buffers()
        self.tinylora_B = Buffers()
        self.tinylora_P = Buffers()
        self.name, self.kind = name, kind
        self.group: dict[str, str] = {}
        self.merged: tuple[str, ...] = ()
        self.unmerged: list[nn.Parameter] = []  # in a list, so that it isn't registered
        self.merged_vectors: dict[str, Tensor] = {}
        self._shared = shared
        self.training = base_layer.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(super().__getattr__("base_layer"), name)

    def put(
        self, adapter: str, A: Tensor, B: Tensor, P: Tensor, group: str, *, dropout: float, keep_projection: bool
    ) -> None:
        """Add an adapter: A (r, in), B (out, r), P (u, r, r)."""
        self.tinylora_A.put(adapter, A)
        self.tinylora_B.put(adapter, B)
        self.tinylora_P.put(adapter, P, persistent=keep_projection)
        self.tinylora_dropout[adapter] = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()
        self.tinylora_dropout[adapter].train(self.training)
        self.group[adapter] = group

    def drop(self, adapter: str) -> None:
        """Remove an adapter."""
        for part in (self.tinylora_A, self.tinylora_B, self.tinylora_P):
            part.drop(adapter)
        del self.tinylora_dropout[adapter], self.group[adapter]

    def vector(self, adapter: str) -> Tensor:
        """v (u,) that the layer's R is made of."""
        vectors: Any = self._shared.vectors[adapter]
        found: Tensor = vectors[self.group[adapter]]  # looked up each time: FSDP puts others in its place
        return found

    def projection(self, adapter: str) -> Tensor:
        """P (u, r, r)."""
        found: Tensor = self._modules["tinylora_P"][adapter]  # type: ignore[index]
        return found

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self._modules["base_layer"](x, *args, **kwargs)  # type: ignore[misc]
        shared = self._shared
        if not shared.enabled or self.merged:
            return result
        if shared.rows is not None:
            return self._by_row(result, x, shared.rows)
        for adapter in shared.active:
            if adapter in self.group:
                result = self._plus(result, x, adapter)
        return result

    def _plus(self, result: Tensor, x: Tensor, adapter: str) -> Tensor:
        """The layer's output with an adapter's update."""
        raise NotImplementedError

    def _by_row(self, result: Tensor, x: Tensor, rows: tuple[str, ...]) -> Tensor:
        """The same for a batch whose rows each have an adapter of their own."""
        if x.ndim < 2 or len(x) != len(rows):
            raise MismatchError(
                f"adapter_names has {len(rows)} names, and this layer gets an input of shape {tuple(x.shape)}: its "
                "rows aren't the batch's",
                where=self.name,
                hint="Run the adapters one after the other, with set_adapter.",
            )
        for adapter in dict.fromkeys(rows):
            if adapter in self.group:
                chosen = torch.tensor([i for i, name in enumerate(rows) if name == adapter], device=x.device)
                part = self._plus(result[chosen], x[chosen], adapter)
                result = result.to(part.dtype).index_copy(0, chosen, part)
        return result


class Linear(TinyLoraLayer):
    """A Linear or Conv1D with adapters.

    Attributes
    ----------
    siblings : Siblings
        The layers that get the same input, this one among them.
    """

    def __init__(self, base_layer: nn.Module, shared: Shared, name: str, kind: str) -> None:
        super().__init__(base_layer, shared, name, kind)
        self.siblings = Siblings()

    def _plus(self, result: Tensor, x: Tensor, adapter: str) -> Tensor:
        modules = self._modules  # what attributes find in it, in a tenth of the time
        A, B = modules["tinylora_A"][adapter], modules["tinylora_B"][adapter]  # type: ignore[index]
        h = self.siblings.product(self, adapter, A, x, alone=self._shared.rows is not None)  # (..., r)
        R = mixed(self, adapter)
        h = F.linear(h, R if R.dtype == A.dtype and R.device == A.device else R.to(A.device, A.dtype))  # (..., r)
        if torch.promote_types(result.dtype, h.dtype) != h.dtype:
            return torch.add(result, F.linear(h, B)).to(x.dtype)
        # one product that adds to the output, where PEFT writes the update first and adds it then
        flat, few = result.reshape(-1, result.shape[-1]), h.reshape(-1, h.shape[-1])  # (n, out), (n, r)
        flat = torch.addmm(flat, few, B.t()) if result.dtype == h.dtype else flat.to(h.dtype).addmm_(few, B.t())
        flat = flat.view(result.shape)
        return flat if flat.dtype == x.dtype else flat.to(x.dtype)


class Embedding(TinyLoraLayer):
    """An Embedding with adapters."""

    def _plus(self, result: Tensor, x: Tensor, adapter: str) -> Tensor:
        A, B = self.tinylora_A[adapter], self.tinylora_B[adapter]
        h = F.embedding(x, B).to(result.dtype)  # (..., r)
        h = self.tinylora_dropout[adapter](h) @ mixed(self, adapter).to(A.device, result.dtype)
        return torch.add(result, h @ A.to(result.dtype))


def wrapped(base_layer: nn.Module, shared: Shared, name: str, kind: str) -> TinyLoraLayer:
    """The layer for a module of a kind."""
    return (Embedding if kind == "Embedding" else Linear)(base_layer, shared, name, kind)
