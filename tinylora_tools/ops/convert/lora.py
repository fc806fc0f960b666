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
from typing import Literal

from ...adapters import soundness
from ...adapters.load import Adapter, ModuleOrder
from ...adapters.updates import vocabularies
from ...bases.base import Base
from ...checks import dtype_named, one_of
from ...errors import MismatchError, UnsupportedError
from ...formats.peft.adapter import WEIGHTS_NAMES
from ...formats.peft.config import CONFIG_NAME
from ...formats.peft.release import Seeding
from ...formats.safetensors_writer import write_file
from ...inputs import watches_inputs
from ...output.staging import staged_directory
from ...progress import Progress
from ...sources.locate import expanded
from ...wording import argument, call
from ..opened import AdapterLike, opened_for
from ..scales import one_each
from .lora_plan import plan_lora

Server = Literal["peft", "vllm"]

#: What the experts' projections are called, which PEFT looks for in a LoRA adapter of a model that holds them fused
#: (`_convert_peft_config_moe` of peft/utils/transformers_weight_conversion.py in PEFT 0.21.2).
_OF_EXPERTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LoraReport:
    """All that `tinylora convert lora` says; `ranks` has the modules whose rank isn't `rank`."""

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
    server : "peft" or "vllm"
        Who is going to read it; what it can't take is refused.
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
    one_of("server", server, ("peft", "vllm"))
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
    if base is None:
        _require_one_base(loaded)
    plan = plan_lora(loaded, scales, dtype, rank_pattern, release)
    _check_server(loaded, plan.ranks, server)
    with staged_directory(output, force=force, inputs=inputs) as directory:
        written = write_file(directory / WEIGHTS_NAMES[0], plan.tensors, {"format": "pt"})
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
        warnings=[
            *soundness.notes_of(loaded),
            *_resized(loaded),
            *_dropped_by_peft(loaded, server),
        ],
    )


def _require_one_base(loaded: Sequence[Adapter]) -> None:
    """Raise MismatchError where adapters name different bases: their updates are for different weights."""
    names = dict.fromkeys(name for one in loaded if (name := one.config.base_model_name_or_path))
    if len(names) > 1:
        raise MismatchError(
            f"the adapters name different bases: {', '.join(names)}",
            hint=f"If they are one, say with {argument('base')} which; else convert them one by one.",
        )


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


def _dropped_by_peft(loaded: Sequence[Adapter], server: Server) -> list[str]:
    """A warning where PEFT takes the LoRA of dense layers for the experts', which transformers 5 fuses: in nearly all
    families that it fuses them in."""
    known = next((one.architecture for one in loaded if one.architecture), None)
    modules = dict.fromkeys(module for one in loaded for module in one.modules)
    dense = [m for m in modules if m.endswith(_OF_EXPERTS) and ".experts." not in m]
    if server != "peft" or known is None or not known.fuses_experts or not dense:
        return []
    return [
        f"PEFT under transformers 5 takes {', '.join(_OF_EXPERTS)} of a {known.model_type} for its experts' and drops "
        f"what belongs to other layers, here {dense[0]}"
        + (f" and {len(dense) - 1} more" if len(dense) > 1 else "")
        + ": to use the adapter there, merge it"
    ]


def _check_server(loaded: Sequence[Adapter], differing: Mapping[str, int], server: Server) -> None:
    if server != "vllm":
        return
    whole = [name for one in loaded for name in one.header.replaced]
    if whole:
        raise UnsupportedError(
            f"the adapter brings {whole[0]}" + (f" and {len(whole) - 1} more" if len(whole) > 1 else "") + ", and vLLM "
            "takes neither biases nor modules_to_save in a LoRA adapter",
            where=loaded[0].path,
            hint=f"Merge the adapter into its base with `{call('merge', loaded[0].path, 'MERGED')}`, and serve that.",
        )
    if differing:
        raise UnsupportedError(
            "vLLM knows no rank_pattern",
            hint=f"Leave {argument('rank_pattern')} out: ranks are padded with zeros.",
        )
