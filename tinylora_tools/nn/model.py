"""A model with TinyLoRA adapters: PEFT's, in what it computes and in its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from ..adapters.load import Adapter
from ..adapters.source import load_adapter
from ..checks import dtype_named
from ..core.streams import projection
from ..errors import MismatchError
from ..formats.checkpoint import is_checkpoint
from ..formats.peft.config import TinyLoraConfig
from . import lora, saving, training
from .adapted import AdaptedModel
from .content import Content, content_of, new_content
from .live import base_names
from .placing import place
from .shared import check_name


class TinyLoraModel(AdaptedModel):
    """A model whose targeted layers get TinyLoRA updates; what it hasn't got itself, it has of the model inside.

    Parameters
    ----------
    model : nn.Module
        Its targeted layers are replaced in place, and its own parameters frozen.
    config : TinyLoraConfig
    adapter_name : str
    init_seed : int
        What v is drawn from where `init_weights` is "uniform".
    stream : str
        Whose arithmetic P is drawn with.
    autocast_adapter_dtype : bool
        Have A, B, P and v in float32 where the weights have 16 bits, as PEFT.

    Attributes
    ----------
    model : nn.Module
        The base with its layers replaced.
    tinylora_v : nn.ModuleDict
        The trained vectors: adapter, then group.

    Raises
    ------
    TinyLoraError
        For settings that PEFT refuses, targets that match nothing or what can't be adapted.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TinyLoraConfig,
        adapter_name: str = "default",
        *,
        init_seed: int = 0,
        stream: str = projection.DEFAULT_STREAM,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        self._start(model)
        self.add_adapter(
            adapter_name, config, init_seed=init_seed, stream=stream, autocast_adapter_dtype=autocast_adapter_dtype
        )
        self.set_adapter(adapter_name)

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        adapter: str | Path | Adapter,
        *,
        adapter_name: str = "default",
        is_trainable: bool = False,
        **options: Any,
    ) -> Self:
        """A model with an adapter from its files, of any form: no weight is decomposed.

        Parameters
        ----------
        model : nn.Module
        adapter : path, or open adapter
            PEFT's directory or file, a packed file, or with `settings` another project's.
        adapter_name : str
        is_trainable : bool
            Whether the adapter may be trained on.
        **options
            As `load_adapter`.
        """
        self = cls.__new__(cls)
        self._start(model)
        self.load_adapter(adapter, adapter_name, **options)
        self.set_adapter(adapter_name, inference_mode=not is_trainable)
        return self

    # Its adapters

    def add_adapter(
        self,
        adapter_name: str,
        config: TinyLoraConfig,
        *,
        init_seed: int = 0,
        stream: str = projection.DEFAULT_STREAM,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """Make a new adapter, not active and frozen until `set_adapter`; arguments and errors as for the class. Its
        modules are numbered as if it were the only one."""
        check_name(adapter_name, self._contents)
        training.require_one_with_bias(config, self._contents)
        content = new_content(self.model, config, init_seed=init_seed, stream=stream, widen=autocast_adapter_dtype)
        self._install(adapter_name, content)

    def load_adapter(
        self,
        adapter: str | Path | Adapter,
        adapter_name: str,
        *,
        base: str | Path | None = None,
        check_base: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        """Load an adapter of any form, not active and frozen until `set_adapter`: no weight is decomposed.

        Parameters
        ----------
        adapter : path, or open adapter
        adapter_name : str
        base : path, optional
            The base's directory, whose weights packed adapters are made of again; by default the one that the adapter,
            or the model, names, if it is at hand.
        check_base : bool
            Refuse factors that aren't this model's weights'.
        autocast_adapter_dtype : bool
            As for the class.
        **options
            As `tinylora_tools.load_adapter`.

        Raises
        ------
        MismatchError
            For an adapter of another model.
        TinyLoraError
            For one that is damaged, or whose P or groups can't be known.
        """
        check_name(adapter_name, self._contents)
        named = vars(self.model).get("name_or_path")
        if base is None and isinstance(named, str) and named and is_checkpoint(Path(named)):
            base = named
        order = [name for name, _ in base_names(self.model) if name]
        opened = load_adapter(adapter, base, order, **options)
        training.require_one_with_bias(opened.config, self._contents)
        content = content_of(self.model, opened, check_base=check_base, widen=autocast_adapter_dtype)
        self._install(adapter_name, content)

    def _install(self, name: str, content: Content) -> None:
        place(self.model, self._shared, name, content)
        self._contents[name] = content.without_values()
        self._wrapped = training.layers_of(self.model)

    # Its files

    def adapter_state_dict(self, adapter_name: str = "default") -> dict[str, Tensor]:
        """An adapter's tensors by the keys of PEFT's file."""
        self._require(adapter_name)
        vectors: Any = self.tinylora_v[adapter_name]
        return saving.adapter_tensors(self.model, dict(vectors.items()), adapter_name, self._contents[adapter_name])

    def save_pretrained(
        self, directory: str | Path, *, selected_adapters: Sequence[str] | None = None, force: bool = False
    ) -> None:
        """Write adapters as PEFT lays them out: "default" into the directory, others into directories of their own in
        it. Files of those names are replaced with `force`, others left alone.

        Raises
        ------
        OutputError
            If there are such files, or they can't be written.
        FormatError
            For a v that isn't finite.
        """
        names = list(self._contents) if selected_adapters is None else list(selected_adapters)
        for name in names:
            self._require(name)
        content = {
            name: (self.adapter_state_dict(name), saving.written_config(self.model, self._contents[name]))
            for name in names
        }
        saving.write(Path(directory).expanduser(), content, force=force)

    def lora_state_dict(
        self, adapter_names: Sequence[str] | None = None, *, dtype: str = "float32"
    ) -> dict[str, Tensor]:
        """The update of the active adapters, or those named, as exact LoRA: lora_A = A, lora_B = B R, on the CPU."""
        return self._lora(adapter_names, dtype)[0]

    def sync_lora(
        self,
        target: str | Path | lora.Receiver,
        adapter_names: Sequence[str] | None = None,
        *,
        dtype: str = "float32",
    ) -> None:
        """Hand the current update to an engine as a LoRA adapter, without touching the weights.

        Parameters
        ----------
        target : path, or callable
            A directory, whose LoRA adapter is replaced; or a function of the tensors and the configuration.
        adapter_names : sequence of str, optional
            By default the active ones.
        dtype : "float32", "bfloat16" or "float16"

        Raises
        ------
        FormatError
            For an update that isn't finite.
        OutputError
            If the directory can't be written, or holds an adapter of another kind.
        """
        lora.hand_over(target, *self._lora(adapter_names, dtype))

    def _lora(self, adapter_names: Sequence[str] | None, dtype: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        names = self.active_adapters if adapter_names is None else list(adapter_names)
        for name in names:
            self._require(name)
        layers = [layer for layer in self._wrapped if any(name in layer.group for name in names)]
        if not layers:
            raise MismatchError("no adapter is active, so there is no update", hint="Choose one with set_adapter.")
        self._factors = lora.factors_for(self._factors, layers, names, dtype_named("dtype", dtype))
        tensors = self._factors.tensors(lora.vectors_of(layers, names))
        for name in names:
            tensors |= saving.whole_tensors(self.model, name, self._contents[name].config)
        content = self._contents[names[0]]
        return tensors, lora.lora_config(content, self._factors, layers, vars(self.model).get("name_or_path"))
