"""What a model with adapters computes, and what may be done with those that it has; `model` makes and saves them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import MismatchError, TinyLoraError, UnsupportedError
from ..formats.peft.config import TinyLoraConfig
from . import lora, merging, training
from .content import Content
from .layers import Linear, TinyLoraLayer
from .mixing import holding
from .placing import take_away
from .shared import Shared


class AdaptedModel(nn.Module):
    """A model whose targeted layers get updates; what it hasn't got itself, it has of the model inside."""

    def _start(self, model: nn.Module) -> None:
        super().__init__()
        if any(isinstance(module, (TinyLoraLayer, AdaptedModel)) for module in model.modules()):
            raise UnsupportedError(
                "the model has TinyLoRA layers already", hint="Use add_adapter or load_adapter of the one it has."
            )
        self.model = model
        self._shared = Shared()
        self.tinylora_v = self._shared.vectors
        self._contents: dict[str, Content] = {}
        self._wrapped: list[TinyLoraLayer] = []
        self._factors: lora.LoraFactors | None = None
        training.freeze(model)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("model", "_shared"):
                raise
            return getattr(super().__getattr__("model"), name)

    # What it computes

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """The model's own; with `adapter_names`, each row of the batch with an adapter of its own ("__base__" for
        none)."""
        if torch.compiler.is_compiling() and adapter_names is None:
            return self.model(*args, **kwargs)
        with self._at_work(adapter_names):
            return self.model(*args, **kwargs)

    def generate(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """The model's own `generate`; `adapter_names` as for a call."""
        if adapter_names is not None:
            settings = kwargs.get("generation_config") or getattr(self.model, "generation_config", None)
            times = max(
                kwargs.get(name) or getattr(settings, name, None) or 1 for name in ("num_beams", "num_return_sequences")
            )
            adapter_names = [name for name in adapter_names for _ in range(times)]
        with self._at_work(adapter_names):
            return self.model.generate(*args, **kwargs)  # type: ignore[operator]

    @contextmanager
    def _at_work(self, adapter_names: Sequence[str] | None) -> Iterator[None]:
        shared = self._shared
        rows = None if adapter_names is None else tuple(adapter_names)
        if rows is not None:
            training.require_rows(rows, self._contents, self._wrapped)
        training.require_as_merged(self._wrapped)
        names = dict.fromkeys(shared.active if rows is None else rows) if shared.enabled else ()
        pairs = [(layer, name) for name in names for layer in self._wrapped if name in layer.group and not layer.merged]
        before, shared.rows = shared.rows, rows
        try:
            with holding(pairs):
                yield
        finally:
            shared.rows = before
            for layer in self._wrapped:
                if isinstance(layer, Linear):
                    layer.siblings.let_go()

    # Its adapters

    @property
    def peft_config(self) -> dict[str, TinyLoraConfig]:
        """Each adapter's configuration."""
        return {name: content.config for name, content in self._contents.items()}

    @property
    def active_adapters(self) -> list[str]:
        return list(self._shared.active)

    @property
    def notes(self) -> dict[str, tuple[str, ...]]:
        """What a person should know of each adapter that was loaded."""
        return {name: content.notes for name, content in self._contents.items()}

    @property
    def targeted_module_names(self) -> list[str]:
        """The modules that any adapter adapts, in the model's order."""
        return [layer.name for layer in self._wrapped]

    def set_adapter(self, adapter_names: str | Sequence[str], *, inference_mode: bool = False) -> None:
        """Choose whose updates are added, of one adapter or several. Their v, and what else they train, can then be
        trained (but in `inference_mode`), the others' not.

        Raises
        ------
        MismatchError
            For a name that isn't there, while adapters are merged, or for two that train the same module whole.
        """
        names = (adapter_names,) if isinstance(adapter_names, str) else tuple(dict.fromkeys(adapter_names))
        for name in names:
            self._require(name)
        self._require_unmerged("set_adapter")
        training.require_apart(self.model, names)
        self._shared.active = names
        training.set_trainable(self.model, self._shared, self._contents, () if inference_mode else names)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base alone meanwhile: its weights as they were, if adapters are merged."""
        merged = {layer.name: layer.merged for layer in self._wrapped if layer.merged}
        before, self._shared.enabled = self._shared.enabled, False
        try:
            for layer in self._wrapped:
                merging.unmerge(layer)
            yield
        finally:
            self._shared.enabled = before
            for layer in self._wrapped:
                merging.merge(layer, merged.get(layer.name, ()), safe=False)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter with its v. If it was the only active one, the first of those that remain becomes active.

        Raises
        ------
        MismatchError
            For a name that isn't there, or while adapters are merged.
        """
        self._require(adapter_name)
        self._require_unmerged("delete_adapter")
        take_away(self.model, self._shared, adapter_name)
        del self._contents[adapter_name]
        self._wrapped = training.layers_of(self.model)
        active = [name for name in self._shared.active if name != adapter_name] or list(self._contents)[:1]
        if tuple(active) != self._shared.active:
            self._shared.active = ()
            self.set_adapter(active)

    # Its weights

    def merge_adapter(self, adapter_names: Sequence[str] | None = None, *, safe_merge: bool = False) -> None:
        """Put the active adapters' updates, or those named, into the weights. The weights as they were are kept.

        Raises
        ------
        FormatError
            If a merged weight isn't finite (`safe_merge`).
        UnsupportedError
            For an embedding that does more than look up and scale.

        Nothing is merged then.
        """
        names = self.active_adapters if adapter_names is None else list(adapter_names)
        for name in names:
            self._require(name)
        before = [(layer, layer.merged) for layer in self._wrapped]
        try:
            for layer in self._wrapped:
                merging.merge(layer, names, safe=safe_merge)
        except TinyLoraError:
            for layer, merged in before:
                if layer.merged != merged:
                    merging.unmerge(layer)
                    merging.merge(layer, merged, safe=False)
            raise

    def unmerge_adapter(self) -> None:
        """Give the weights back as they were, bit for bit."""
        for layer in self._wrapped:
            merging.unmerge(layer)

    def merge_and_unload(self, adapter_names: Sequence[str] | None = None, *, safe_merge: bool = False) -> nn.Module:
        """The base model with the updates in its weights and no adapter; errors as `merge_adapter`. What a tied weight
        shares with another is shared no more where only one of them is adapted."""
        self.merge_adapter(adapter_names, safe_merge=safe_merge)
        return training.bare(self.model, merged=True)

    def unload(self) -> nn.Module:
        """The base model without adapters. Biases that an adapter trained stay as they are now."""
        self.unmerge_adapter()
        return training.bare(self.model, merged=False)

    # What is trained

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Numbers that are trained, and all parameters."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)

    def print_trainable_parameters(self) -> str:
        """What PEFT prints of that, returned."""
        trained, total = self.get_nb_trainable_parameters()
        share = 100 * trained / total
        return f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {share:.4f}"

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """The model's own; and, since its embeddings are frozen, have their output ask for gradients, without which
        reentrant checkpoints pass none on."""
        self.model.gradient_checkpointing_enable(*args, **kwargs)  # type: ignore[operator]
        self.model.enable_input_require_grads()  # type: ignore[operator]

    def _require(self, name: str) -> None:
        if name not in self._contents:
            known = ", ".join(map(repr, self._contents)) or "none"
            raise MismatchError(f"no adapter is called {name!r}", hint=f"There are: {known}.")

    def _require_unmerged(self, verb: str) -> None:
        if any(layer.merged for layer in self._wrapped):
            raise MismatchError(f"adapters are merged, so {verb} can't be called", hint="Call unmerge_adapter first.")
