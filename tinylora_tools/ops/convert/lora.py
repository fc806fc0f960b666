"""TinyLoRA adapters as one LoRA adapter: exact, with no decomposition and no base weights.

delta W = B R A is a product of rank r already: lora_A = A, lora_B = B R, formed in float64 and rounded once. Several
adapters are summed by stacking their factors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...adapters.load import LoadedAdapter, load_adapter, unsaved_bias
from ...adapters.updates import check_adapter, embedding_scale, projected_vectors
from ...bases.modules import is_embedding_by_name
from ...core.lowrank import Array, left_factor, training_dtype
from ...core.streams import projection
from ...errors import MismatchError, UndeterminedError, UnsupportedError
from ...formats.lora_adapter import config_json, factor_keys
from ...formats.peft_adapter import WEIGHTS_NAMES, base_key
from ...formats.peft_config import CONFIG_NAME
from ...formats.safetensors_file import write_file
from ...formats.tensors import DTYPE_BITS, dtype_name, float_dtype
from ...output.staging import staged_directory

Server = Literal["peft", "vllm"]

#: Families whose LoRA PEFT moves to the fused experts of transformers 5, by these names alone (PEFT 0.21.2,
#: utils/transformers_weight_conversion.py).
_WITH_EXPERTS = {"deepseek_v3", "qwen3_moe"}
_OF_EXPERTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """How the LoRA adapter is written.

    `scales` has a factor for each adapter; `rank_pattern` lets ranks differ between modules, instead of padding them
    with zeros to one; `server` is who is going to read it; `dtype` is the factors'.
    """

    scales: tuple[float, ...] = (1.0,)
    rank_pattern: bool = False
    server: Server = "peft"
    dtype: str = "float32"
    stream: str = projection.DEFAULT_STREAM
    module_order: tuple[str, ...] | None = None
    release: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class LoraReport:
    """All that `tinylora convert --to lora` says; `ranks` has the modules whose rank isn't `rank`."""

    output: str
    to: str
    modules: int
    rank: int
    ranks: dict[str, int]
    dtype: str
    tensors: int
    bytes_written: int
    seconds: float
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A module's update as left @ right: (out, k) in float64, (k, in) as stored."""

    left: Array
    right: Array


def convert_to_lora(
    adapters: Sequence[Path],
    output: Path,
    *,
    base_config: Mapping[str, Any] | None = None,
    options: LoraOptions | None = None,
) -> LoraReport:
    """Write one or several TinyLoRA adapters as a LoRA adapter.

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound or whose P, groups or layer types can't be known, for adapters that don't go
        together, and for content that the server doesn't take.
    """
    started = time.perf_counter()
    options = options or LoraOptions()
    scales = options.scales * len(adapters) if len(options.scales) == 1 else options.scales
    if len(scales) != len(adapters):
        raise MismatchError(f"{len(scales)} scales for {len(adapters)} adapters", hint="Give one, or one for each.")
    loaded = [load_adapter(path, base_config=base_config, module_order=options.module_order) for path in adapters]
    warnings: list[str] = []
    pairs: dict[str, list[_Pair]] = {}
    for one, scale in zip(loaded, scales, strict=True):
        check_adapter(one)
        warnings += unsaved_bias(one.adapter)
        for module, pair in _pairs(one, scale, options.stream, options.release).items():
            pairs.setdefault(module, []).append(pair)
    kinds = _kinds(loaded, list(pairs), warnings)
    whole = {module: _stacked(module, parts) for module, parts in pairs.items()}
    ranks = {module: len(pair.right) for module, pair in whole.items()}
    rank = max(ranks.values())
    differing = {module: r for module, r in ranks.items() if r != rank} if options.rank_pattern else {}
    _check_server(loaded, differing, options.server)
    warnings += _dropped_by_peft(loaded, list(whole), options.server)
    tensors: dict[str, Array] = {}
    for module, pair in whole.items():
        tensors |= _tensors(module, pair, ranks[module] if differing else rank, kinds[module], options.dtype)
    tensors |= _whole_tensors(loaded, whole)
    ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[dtype_name(item[1].dtype)], item[0])))
    config = config_json(
        _one_config(loaded),
        rank=rank,
        ranks=differing,
        targets=_targets(loaded, whole),
        transposed="Conv1D" in kinds.values(),
    )
    with staged_directory(output, force=options.force, inputs=adapters) as directory:
        write_file(directory / WEIGHTS_NAMES[0], ordered, {"format": "pt"})
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")
        written = (directory / WEIGHTS_NAMES[0]).stat().st_size
    return LoraReport(
        output=str(output),
        to="lora",
        modules=len(whole),
        rank=rank,
        ranks=differing,
        dtype=options.dtype,
        tensors=len(tensors),
        bytes_written=written,
        seconds=time.perf_counter() - started,
        warnings=warnings,
    )


def _pairs(loaded: LoadedAdapter, scale: float, stream: str, release: str | None) -> dict[str, _Pair]:
    """The factors of each module's update."""
    adapter, found = loaded.adapter, {}
    with np.errstate(over="ignore", invalid="ignore"):  # _tensors refuses what isn't finite
        for module, R in projected_vectors(loaded, scale, stream=stream).items():
            parts = adapter.modules[module]
            A, B = adapter.file.read(parts.A.name), adapter.file.read(parts.B.name)
            dtype = float_dtype(training_dtype(A, B))
            # PEFT's LoRA adds its update in front of an embedding's own scale, TinyLoRA's behind it.
            own = embedding_scale(loaded, module, dtype, release, as_buffer=True)
            found[module] = _Pair(left_factor(B, R, 1.0 / own), A)
    return found


def _stacked(module: str, parts: Sequence[_Pair]) -> _Pair:
    shapes = {(len(pair.left), pair.right.shape[1]) for pair in parts}
    if len(shapes) > 1:
        raise MismatchError(
            f"{module}: the adapters are for weights of shapes {' and '.join(map(str, sorted(shapes)))}",
            hint="Convert adapters of one base together.",
        )
    return _Pair(np.concatenate([p.left for p in parts], 1), np.concatenate([p.right for p in parts], 0))


def _kinds(loaded: Sequence[LoadedAdapter], modules: Sequence[str], warnings: list[str]) -> dict[str, str]:
    """Each module's type, which decides the form of its factors."""
    known = next((one.architecture for one in loaded if one.architecture), None)
    if known is None:
        guessed = [module for module in modules if is_embedding_by_name(module)]
        if guessed:
            warnings.append(f"no architecture is known: {guessed[0]} is taken for an embedding by its name")
        return {module: "Embedding" if module in guessed else "Linear" for module in modules}
    found = {module: known.kind(module) for module in modules}
    unknown = [module for module, kind in found.items() if kind is None]
    if unknown:
        raise UndeterminedError(
            f"transformers' {known.model_type} has no module {unknown[0]}, so its type isn't known",
            hint="Name the adapter's own base with --base.",
        )
    return {module: kind for module, kind in found.items() if kind is not None}


def _dropped_by_peft(loaded: Sequence[LoadedAdapter], modules: Sequence[str], server: Server) -> list[str]:
    """A warning where PEFT takes the LoRA of dense layers for the experts', which transformers 5 fuses."""
    family = next((one.architecture.model_type for one in loaded if one.architecture), "")
    dense = [m for m in modules if m.endswith(_OF_EXPERTS) and ".experts." not in m]
    if server != "peft" or family not in _WITH_EXPERTS or not dense:
        return []
    return [
        f"PEFT under transformers 5 takes {', '.join(_OF_EXPERTS)} of a {family} for its experts' and drops what "
        f"belongs to other layers, here {dense[0]}"
        + (f" and {len(dense) - 1} more" if len(dense) > 1 else "")
        + ": to use the adapter there, merge it"
    ]


def _check_server(loaded: Sequence[LoadedAdapter], differing: Mapping[str, int], server: Server) -> None:
    if server != "vllm":
        return
    whole = [name for one in loaded for name in one.adapter.replaced]
    if whole:
        raise UnsupportedError(
            f"the adapter brings {whole[0]}" + (f" and {len(whole) - 1} more" if len(whole) > 1 else "") + ", and vLLM "
            "takes neither biases nor modules_to_save in a LoRA adapter",
            where=loaded[0].adapter.path,
            hint="Merge the adapter into its base with `tinylora merge`, and serve that.",
        )
    if differing:
        raise UnsupportedError(
            "vLLM knows no rank_pattern", hint="Leave --rank-pattern out: ranks are padded with zeros."
        )


def _tensors(module: str, pair: _Pair, rank: int, kind: str, dtype: str) -> dict[str, Array]:
    """A module's factors, padded with zeros to the rank and rounded once."""
    target = float_dtype(dtype)
    more = rank - len(pair.right)
    left = np.pad(pair.left, ((0, 0), (0, more)))  # (out, rank)
    right = np.pad(pair.right.astype(np.float64), ((0, more), (0, 0)))  # (rank, in)
    first, second = (left.T, right.T) if kind == "Embedding" else (right, left)
    with np.errstate(over="ignore"):
        values = [np.ascontiguousarray(part).astype(target) for part in (first, second)]
    if not all(np.all(np.isfinite(value.astype(np.float32))) for value in values):
        finite = all(np.all(np.isfinite(exact)) for exact in (first, second))
        raise UnsupportedError(
            f"{module}: its factors " + (f"are too large for {target.name}" if finite else "hold NaN or Inf"),
            hint=f"Choose {'a smaller scale' if dtype == 'float32' else 'float32, or a smaller scale'}."
            if finite
            else "Check the adapter, and its scale.",
        )
    return dict(zip(factor_keys(module, embedding=kind == "Embedding"), values, strict=True))


def _whole_tensors(loaded: Sequence[LoadedAdapter], targeted: Mapping[str, object]) -> dict[str, Array]:
    """Biases, modules_to_save and embeddings that the adapters bring whole, under the keys that LoRA has for them."""
    found: dict[str, Array] = {}
    for one in loaded:
        for parameter, replacement in one.adapter.replaced.items():
            owner, _, last = parameter.rpartition(".")
            key = base_key(owner, last, wrapped=owner in targeted)
            values = one.adapter.file.read(replacement.tensor.name)
            if key in found and not np.array_equal(found[key], values):
                raise MismatchError(
                    f"{parameter}: two adapters bring different values for it, which can't be summed",
                    where=one.adapter.file.path,
                    hint="Convert them one by one.",
                )
            found[key] = values
    return found


def _one_config(loaded: Sequence[LoadedAdapter]) -> dict[str, Any]:
    """The configuration that the result inherits: the first adapter's, with the others' modules_to_save and biases."""
    configs = [dict(one.adapter.config.raw) for one in loaded if one.adapter.config is not None]
    if not configs:
        return {}
    merged = configs[0]
    if len(loaded) > 1:
        merged |= {"layers_to_transform": None, "layers_pattern": None}  # targets are then full names
        saved = {name for config in configs for name in config.get("modules_to_save") or []}
        biases = [b for b in ("all", "tinylora_only") if any(c.get("bias") == b for c in configs)]
        merged |= {"modules_to_save": sorted(saved) or None, "bias": biases[0] if biases else "none"}
    return merged


def _targets(loaded: Sequence[LoadedAdapter], modules: Mapping[str, object]) -> str | list[str]:
    """target_modules: what the one adapter's configuration says, or else the modules' full names."""
    config = loaded[0].adapter.config
    wanted = config.raw.get("target_modules") if config is not None and len(loaded) == 1 else None
    if isinstance(wanted, list) and wanted:
        return [str(name) for name in wanted]
    return wanted if isinstance(wanted, str) and wanted != "all-linear" else sorted(modules)
