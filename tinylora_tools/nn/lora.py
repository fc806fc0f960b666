"""A live model's update as LoRA, for an engine that loads adapters between steps: exact, and without touching W.

delta W = B R A: lora_A = A, which never changes, and lora_B = B R, formed in float64 in a fixed order and rounded once,
so the same v gives the same bytes. Of several adapters the factors are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..core.lowrank import left_factor, projected
from ..core.torch_arrays import array_of, tensor_of
from ..errors import FormatError, OutputError
from ..formats.json_file import read_object
from ..formats.lora_adapter import config_json, factor_keys
from ..formats.peft.config import ALL_LINEAR, CONFIG_NAME
from ..formats.tensors import float_dtype
from .content import Content
from .layers import TinyLoraLayer
from .merging import scale_of
from .saving import gathered, write

#: Who is handed a LoRA adapter's tensors and its configuration.
Receiver = Callable[[dict[str, Tensor], dict[str, Any]], object]


class LoraFactors:
    """What of a model's LoRA never changes, kept between steps: A and P, and B in float64.

    It holds for the layers and adapters that it was made of, as long as nobody puts other factors into them.
    """

    def __init__(self, layers: Sequence[TinyLoraLayer], adapters: Sequence[str], dtype: str) -> None:
        self.key = self.key_of(layers, adapters, dtype)
        self._of = list(layers)  # so that no id in the key is used again
        self._dtype = float_dtype(dtype)
        self._parts: list[tuple[TinyLoraLayer, list[tuple[str, NDArray[Any], NDArray[Any]]], NDArray[Any]]] = []
        self._scales = {one.name: scale_of(one.base_layer, one.name) for one in layers if one.kind == "Embedding"}
        ranks = [sum(one.tinylora_A[name].shape[0] for name in adapters if name in one.group) for one in layers]
        self.rank = max(ranks)
        for layer, rank in zip(layers, ranks, strict=True):
            own = [name for name in adapters if name in layer.group]
            A = np.concatenate([array_of(layer.tinylora_A[name].double()) for name in own])
            A = np.pad(A, ((0, self.rank - rank), (0, 0)))  # (rank, in)
            factors = [
                (name, array_of(layer.tinylora_B[name].double()), array_of(layer.tinylora_P[name].double()))
                for name in own
            ]
            self._parts.append((layer, factors, self._rounded(layer, A)))

    @staticmethod
    def key_of(layers: Sequence[TinyLoraLayer], adapters: Sequence[str], dtype: str) -> tuple[object, ...]:
        """What it is made of: the layers' buffers, and whether they were written since."""
        parts = [
            (id(part[name]), part[name]._version)
            for layer in layers
            for name in adapters
            if name in layer.group
            for part in (layer.tinylora_A, layer.tinylora_B, layer.tinylora_P)
        ]
        return tuple(map(id, layers)), tuple(adapters), dtype, tuple(parts)

    def tensors(self, vectors: Mapping[tuple[str, str], NDArray[Any]]) -> dict[str, Tensor]:
        """lora_A and lora_B of every module, on the CPU, by the keys of PEFT's file, for the v by adapter and group."""
        found = {}
        for layer, factors, A in self._parts:
            embedding = layer.kind == "Embedding"
            scale = 1.0 / self._scales.get(layer.name, 1.0)
            lefts = [left_factor(B, projected(vectors[name, layer.group[name]], P), scale) for name, B, P in factors]
            left = np.concatenate(lefts, 1) if len(lefts) > 1 else lefts[0]  # (out, k)
            padded = np.pad(left, ((0, 0), (0, self.rank - left.shape[1]))) if left.shape[1] < self.rank else left
            B = self._rounded(layer, padded)
            first, second = (B.T, A.T) if embedding else (A, B)
            for key, part in zip(factor_keys(layer.name, embedding=embedding), (first, second), strict=True):
                found[key] = tensor_of(np.ascontiguousarray(part))
        return found

    def _rounded(self, layer: TinyLoraLayer, exact: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            found = exact.astype(self._dtype)
        if not np.all(np.isfinite(found.astype(np.float32))):
            raise FormatError(
                f"its update holds NaN or Inf in {self._dtype.name}",
                where=layer.name,
                hint="Did training diverge? Go back to a state from before.",
            )
        return found


def factors_for(
    before: LoraFactors | None, layers: Sequence[TinyLoraLayer], adapters: Sequence[str], dtype: str
) -> LoraFactors:
    """Those from before, if they are of the same layers, adapters and buffers."""
    if before is not None and before.key == LoraFactors.key_of(layers, adapters, dtype):
        return before
    return LoraFactors(layers, adapters, dtype)


def vectors_of(layers: Sequence[TinyLoraLayer], adapters: Sequence[str]) -> dict[tuple[str, str], NDArray[Any]]:
    """Each v (u,) in float64, by adapter and group."""
    uses = {(name, layer.group[name]): layer for layer in layers for name in adapters if name in layer.group}
    return {key: array_of(gathered(layer.vector(key[0])).double()) for key, layer in uses.items()}


def lora_config(
    content: Content, factors: LoraFactors, layers: Sequence[TinyLoraLayer], named: str | None
) -> dict[str, Any]:
    """adapter_config.json of it."""
    wanted = content.config.target_modules
    names = sorted(layer.name for layer in layers)
    by_name = isinstance(wanted, str) and wanted != ALL_LINEAR
    config = {**content.config.to_json(), "base_model_name_or_path": content.config.base_model_name_or_path or named}
    config |= {"layers_to_transform": None, "layers_pattern": None}
    transposed = any(layer.kind == "Conv1D" for layer in layers)
    targets = wanted if by_name and wanted is not None else names
    return config_json(config, rank=factors.rank, ranks={}, targets=targets, transposed=transposed)


def hand_over(target: str | Path | Receiver, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Give a LoRA adapter to a receiver, or write it into a directory, in place of one that is there.

    Raises
    ------
    OutputError
        If the directory holds an adapter of another kind.
    """
    if callable(target):
        target(tensors, config)
        return
    directory = Path(target).expanduser()
    there = directory / CONFIG_NAME
    if there.exists() and read_object(there).get("peft_type") != "LORA":
        raise OutputError(
            "holds an adapter that is no LoRA, which isn't replaced", where=directory, hint="Name another directory."
        )
    write(directory, {"default": (tensors, config)}, force=True)
