"""Modules that an adapter trains and saves whole: PEFT's modules_to_save."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MismatchError
from .shared import Shared


class WholeModule(nn.Module):
    """What a module that is trained whole is replaced with: the base's, and a copy for each adapter."""

    def __init__(self, original_module: nn.Module, shared: Shared, name: str) -> None:
        super().__init__()
        self.original_module = original_module
        self.modules_to_save = nn.ModuleDict()
        self.name = name
        self._shared = shared
        self.training = original_module.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("original_module", "modules_to_save", "_shared"):
                raise
            return getattr(self.current, name)

    @property
    def current(self) -> nn.Module:
        """The copy of the active adapter, or the base's own module."""
        shared = self._shared
        for adapter in shared.active if shared.enabled else ():
            if adapter in self.modules_to_save:
                return self.modules_to_save[adapter]
        return self.original_module

    def of(self, adapter: str) -> nn.Module:
        """An adapter's copy, or the base's own module."""
        copies: dict[str, nn.Module] = dict(self.modules_to_save.items())
        return copies.get(adapter, self.original_module)

    def put(self, adapter: str) -> nn.Module:
        """Add a copy for an adapter, frozen."""
        self.modules_to_save[adapter] = copy.deepcopy(self.original_module)
        return self.modules_to_save[adapter].requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        rows = self._shared.rows
        if rows is None or not self._shared.enabled:
            return self.current(*args, **kwargs)
        x, *rest = args
        if len(x) != len(rows):
            raise MismatchError(
                f"adapter_names has {len(rows)} names, and this module gets an input of shape {tuple(x.shape)}",
                where=self.name,
            )
        result: Tensor | None = None
        for adapter in dict.fromkeys(rows):  # the base's own is a row's, too
            chosen = torch.tensor([i for i, name in enumerate(rows) if name == adapter], device=x.device)
            part = self.of(adapter)(x[chosen], *rest, **kwargs)
            if not isinstance(part, Tensor):
                raise MismatchError(
                    "gives no single tensor, so rows of a batch can't have adapters of their own here", where=self.name
                )
            result = x.new_empty((len(rows), *part.shape[1:]), dtype=part.dtype) if result is None else result
            result = result.index_copy(0, chosen, part)
        return result
