"""TinyLoRA adapters as one LoRA adapter: exact, with no decomposition and no base weights.

delta W = B R A is a product of rank r already: lora_A = A, lora_B = B R, formed in float64 and rounded once. Several
adapters are summed by stacking their factors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...adapters import soundness
from ...adapters.load import Adapter, ModuleOrder
from ...adapters.updates import vocabularies
from ...bases.base import Base
from ...checks import dtype_named, one_of
from ...formats.peft.adapter import WEIGHTS_NAMES
from ...formats.peft.config import CONFIG_NAME
from ...formats.peft.release import Seeding
from ...formats.safetensors_writer import write_file
from ...formats.serving import mlx_adapter
from ...formats.serving.engines import ENGINES, EngineName, commands
from ...inputs import watches_inputs
from ...output.staging import staged_directory
from ...progress import Progress
from ...sources.locate import expanded
from ..opened import AdapterLike, opened_for
from ..scales import one_each
from .engine_limits import losses, require_fit
from .export import Export
from .lora_plan import LoraPlan, plan_lora

Server = Literal["peft"] | EngineName

#: What the experts' projections are called, which PEFT looks for in a LoRA adapter of a model that holds them fused
#: (`_convert_peft_config_moe` of peft/utils/transformers_weight_conversion.py in PEFT 0.21.2).
_OF_EXPERTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LoraReport:
    """All that `tinylora convert lora` says; `ranks` has the modules whose rank isn't `rank`, `serve` what is typed
    next."""

    output: str
    to: str
    modules: int
    rank: int
    ranks: dict[str, int]
    dtype: str
    tensors: int
    bytes_written: int
    seconds: float
    server: Server
    serve: list[str]
    warnings: list[str]


@watches_inputs
def to_lora(
    adapters: Sequence[AdapterLike] | AdapterLike,
    output: str | Path,
    *,
    base: str | Path | Base | None = None,
    scale: float | Sequence[float] = 1.0,
    dtype: str = "float32",
    rank_pattern: bool = False,
    server: Server = "peft",
    stream: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    release: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> LoraReport:
    """Write one or several TinyLoRA adapters as one LoRA adapter with exactly their summed update.

    Parameters
    ----------
    adapters : path, open adapter, or a sequence of them
    output : path
        The directory to make.
    base : path, optional
        What tells layer types; by default the base that the adapters name, if it is at hand. Packed adapters need its
        weights.
    scale : float or sequence of float
        Factor of the updates: one for all adapters, or one for each.
    dtype : "float32", "bfloat16" or "float16"
        Of the factors.
    rank_pattern : bool
        Let ranks differ between modules, instead of padding them with zeros to one.
    server : "peft", "vllm", "sglang", "llama.cpp" or "mlx"
        Who is going to read it; what it would refuse, lose or misread is refused. For "mlx" the files are mlx-lm's,
        else PEFT's. For "peft" there is a warning of whatever one of the others would lose.
    stream, module_order, first_adapter, seeding
        As `load_adapter`.
    device, threads
        Where factors are computed, if they have to be, and with how many of torch's threads.
    release : "4" or "5", optional
        The transformers that adapters of Gemma's embeddings were trained under.
    force : bool
        Replace an existing adapter.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound or whose P, groups or layer types can't be known, for adapters that don't go
        together, and for content that the server doesn't take.
    """
    started = time.perf_counter()
    dtype = dtype_named("dtype", dtype)
    one_of("server", server, ("peft", *ENGINES))
    one_of("release", release, (None, "4", "5"))
    output = expanded(output)
    loaded, inputs = opened_for(
        output,
        adapters,
        base,
        force=force,
        module_order=module_order,
        first_adapter=first_adapter,
        seeding=seeding,
        stream=stream,
        device=device,
        threads=threads,
        progress=progress,
    )
    scales = one_each(scale, len(loaded))
    export = Export.of(loaded, padded=not rank_pattern)
    fit = [*losses(export), *_dropped_by_peft(loaded)] if server == "peft" else require_fit(server, export)
    plan = plan_lora(loaded, scales, dtype, rank_pattern, release, own=export.brought.own)
    if server != "peft":
        plan = _without_the_absent(plan)
    if server == "mlx":
        plan = _as_mlx(plan)
    with staged_directory(output, force=force, inputs=inputs) as directory:
        weights = mlx_adapter.WEIGHTS_NAME if server == "mlx" else WEIGHTS_NAMES[0]
        written = write_file(directory / weights, plan.tensors, {"format": "mlx" if server == "mlx" else "pt"})
        (directory / CONFIG_NAME).write_text(json.dumps(plan.config, indent=2, sort_keys=True), "utf-8")
    return LoraReport(
        output=str(output),
        to="lora",
        modules=plan.modules,
        rank=plan.rank,
        ranks=dict(plan.ranks),
        dtype=dtype,
        tensors=len(plan.tensors),
        bytes_written=written,
        seconds=time.perf_counter() - started,
        server=server,
        serve=commands(server, output, _base_for(None if base is None else loaded[0].base, export), plan.rank),
        warnings=[*soundness.notes_of(loaded), *_resized(loaded), *fit],
    )


def _base_for(base: Base | None, export: Export) -> str:
    """What a program is told for the base: that which was named, a repository by its name, or the adapter's."""
    return (base.name if base else None) or export.base_name or "BASE"


def _without_the_absent(plan: LoraPlan) -> LoraPlan:
    """The configuration without biases and modules_to_save that aren't among the tensors, which servers refuse."""
    whole = [key for key in plan.tensors if "lora_" not in key]
    saved = [name for name in plan.config["modules_to_save"] or [] if any(f".{name}." in f".{key}" for key in whole)]
    bias = plan.config["bias"] if any(key.endswith(".bias") for key in whole) else "none"
    return replace(plan, config={**plan.config, "modules_to_save": saved or None, "bias": bias})


def _as_mlx(plan: LoraPlan) -> LoraPlan:
    """The same in mlx-lm's form: PEFT's factors are the other way round, but for an embedding's."""
    tensors: dict[str, NDArray[Any]] = {}
    for module, factors in plan.factors.items():
        parts = (factors.left, factors.right) if factors.kind == "Embedding" else (factors.right.T, factors.left.T)
        tensors |= dict(zip(mlx_adapter.factor_keys(module), map(np.ascontiguousarray, parts), strict=True))
    config = mlx_adapter.config_json(plan.rank, list(plan.factors))
    return replace(plan, tensors=dict(sorted(tensors.items())), config=config)


def _resized(loaded: Sequence[Adapter]) -> list[str]:
    """A warning where the vocabulary was resized for training: the result loads only into a base that is resized."""
    found: dict[str, str] = {}
    for adapter in loaded:
        for parameter, own, others in vocabularies(adapter):
            found.setdefault(
                parameter,
                f"{parameter} has {own} rows, the base's {others}: the vocabulary was resized for training. The base "
                f"has to be resized before the adapter is loaded, model.resize_token_embeddings({own}); servers don't "
                "do that, so for them save the resized base first",
            )
    return list(found.values())


def _dropped_by_peft(loaded: Sequence[Adapter]) -> list[str]:
    """A warning where PEFT takes the LoRA of dense layers for the experts', which transformers 5 fuses: in nearly all
    families that it fuses them in."""
    known = next((one.architecture for one in loaded if one.architecture), None)
    modules = dict.fromkeys(module for one in loaded for module in one.modules)
    dense = [m for m in modules if m.endswith(_OF_EXPERTS) and ".experts." not in m]
    if known is None or not known.fuses_experts or not dense:
        return []
    return [
        f"PEFT under transformers 5 takes {', '.join(_OF_EXPERTS)} of a {known.model_type} for its experts' and drops "
        f"what belongs to other layers, here {dense[0]}"
        + (f" and {len(dense) - 1} more" if len(dense) > 1 else "")
        + ": to use the adapter there, merge it"
    ]
