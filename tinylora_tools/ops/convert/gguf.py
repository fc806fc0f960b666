"""TinyLoRA adapters as one LoRA adapter in a GGUF file, for llama.cpp and Ollama: without llama.cpp's sources and
without base weights.

llama.cpp scales a module's update by one alpha over the module's own rank, so all have one rank, padded with zeros, and
alpha is that rank.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...adapters import soundness
from ...adapters.load import Adapter, ModuleOrder
from ...bases.base import Base
from ...checks import one_of
from ...errors import TinyLoraError, UndeterminedError, UnsupportedError
from ...formats.gguf.layout import APPLIED, EMBEDDING, HEAD, LAYOUTS, Layout, number, why_not
from ...formats.gguf.lora_file import Pair, require_gguf, weight_names, within_layer, write_lora
from ...formats.peft.release import Seeding
from ...inputs import watches_inputs
from ...output.staging import require_ending, staged_file
from ...progress import Progress
from ...wording import argument
from ..opened import AdapterLike, opened_for
from ..scales import one_each
from .brought import brought_whole, merge_instead, refuse_whole
from .lora_factors import Factors, summed

#: Types of tensors as llama.cpp's tools call them; `auto` follows the base.
OUTTYPES = ("auto", "f32", "f16", "bf16")
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class GgufReport:
    """All that `tinylora convert gguf` says; `serve` has commands that load the file."""

    output: str
    to: str
    architecture: str
    modules: int
    rank: int
    outtype: str
    tensors: int
    bytes_written: int
    seconds: float
    serve: list[str]
    warnings: list[str]


@watches_inputs
def to_gguf(
    adapters: Sequence[AdapterLike] | AdapterLike,
    output: str | Path,
    *,
    base: str | Path | Base | None = None,
    scale: float | Sequence[float] = 1.0,
    outtype: str = "f32",
    stream: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    release: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> GgufReport:
    """Write one or several TinyLoRA adapters as one LoRA adapter that llama.cpp and Ollama load.

    Needs the gguf package. The class of the base's config.json has to be one of `formats.gguf.layout.LAYOUTS`.

    Parameters
    ----------
    adapters : path, open adapter, or a sequence of them
    output : path
        The .gguf file to make.
    base : path, optional
        The base's directory, of which config.json is enough; by default the one that the adapter names. Packed adapters
        need its weights.
    scale : float or sequence of float
        Factor of the updates: one for all adapters, or one for each.
    outtype : "f32", "f16", "bf16" or "auto"
        Type of the factors; "auto" is the type that config.json says the base's weights have.
    stream, module_order, first_adapter, seeding
        As `load_adapter`.
    device, threads
        Where factors are computed, if they have to be, and with how many of torch's threads.
    release : "4" or "5", optional
        The transformers that adapters of Gemma's embeddings were trained under.
    force : bool
        Replace an existing file.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        As `to_lora`; for a class of models whose LoRA wasn't compared with llama.cpp's, and for what llama.cpp has no
        LoRA for.
    """
    started = time.perf_counter()
    one_of("outtype", outtype, OUTTYPES)
    one_of("release", release, (None, "4", "5"))
    output = Path(output).expanduser()
    require_ending(output, ".gguf")
    require_gguf()
    loaded, _ = opened_for(
        output,
        adapters,
        base,
        force=force,
        file=True,
        module_order=module_order,
        first_adapter=first_adapter,
        seeding=seeding,
        stream=stream,
        device=device,
        threads=threads,
        progress=progress,
    )
    config = _config_of(loaded)
    layout = _layout_of(config, loaded[0].path)
    outtype = _outtype_of(config) if outtype == "auto" else outtype
    names = _names(loaded, layout, config)
    refuse_whole(brought_whole(loaded), "llama.cpp", loaded[0].path)
    update = summed(loaded, one_each(scale, len(loaded)), _DTYPES[outtype], release, padded=True)
    pairs = {
        names[module]: _pair(module, factors, layout, config, names[module], loaded[0].path)
        for module, factors in update.factors.items()
    }
    with staged_file(output, force=force) as partial:
        written = write_lora(partial, layout.architecture, output.stem, float(update.rank), pairs)
    return GgufReport(
        output=str(output),
        to="gguf",
        architecture=layout.architecture,
        modules=len(pairs),
        rank=update.rank,
        outtype=outtype,
        tensors=2 * len(pairs),
        bytes_written=written,
        seconds=time.perf_counter() - started,
        serve=[f"llama-server -m BASE.gguf --lora {output}"],
        warnings=soundness.notes_of(loaded),
    )


def _config_of(loaded: Sequence[Adapter]) -> Mapping[str, Any]:
    """The base's config.json."""
    base = loaded[0].base
    if base is None or base.config is None:
        name = loaded[0].config.base_model_name_or_path
        raise UndeterminedError(
            "no config.json of the base is at hand, which tells what llama.cpp calls the weights and how it has them"
            + (f"; the adapter names {name!r}" if name else ""),
            where=loaded[0].path if base is None else base.path,
            hint=f"Say with {argument('base', ...)} where it is: its weights aren't needed.",
        )
    return base.config


def _layout_of(config: Mapping[str, Any], where: Path) -> Layout:
    names = config.get("architectures")
    class_name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if (reason := why_not(class_name, config)) is not None:
        raise UnsupportedError(reason, where=where, hint=_merge_for_llama_cpp(where))
    return LAYOUTS[class_name]


def _merge_for_llama_cpp(where: Path) -> str:
    return f"{merge_instead(where)[:-1]} after llama.cpp's own `convert_hf_to_gguf.py MERGED`."


def _outtype_of(config: Mapping[str, Any]) -> str:
    """The type that config.json says of the weights."""
    said = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return next((short for short, name in _DTYPES.items() if name == said), "f32")


def _names(loaded: Sequence[Adapter], layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
    """llama.cpp's name for the weight of each module; UnsupportedError where it has no LoRA for one."""
    where = loaded[0].path
    find = weight_names(layout.architecture, number(config, "num_hidden_layers", "n_layer", "num_layers"))
    found = {}
    for module in dict.fromkeys(module for one in loaded for module in one.modules):
        found[module] = find(module) or ""
        if (reason := _refused(module, found[module], layout, loaded)) is not None:
            raise UnsupportedError(f"{module}: {reason}", where=where, hint=_merge_for_llama_cpp(where))
    return found


def _pair(module: str, factors: Factors, layout: Layout, config: Mapping[str, Any], name: str, where: Path) -> Pair:
    if name == EMBEDDING:  # looked up by rows of a, and b is (dim, r)
        return Pair(factors.left, factors.right.T)
    try:
        order = layout.order(name, config, len(factors.left))
    except TinyLoraError as error:
        raise type(error)(f"{module}: {error.what}", where=where, hint=error.hint) from None
    return Pair(factors.right, factors.left if order is None else factors.left[order])


def _refused(module: str, name: str, layout: Layout, loaded: Sequence[Adapter]) -> str | None:
    """Why llama.cpp has no LoRA for a module; None where it has."""
    if ".experts." in f".{module}.":
        return "llama.cpp holds the experts of a layer in one tensor, and one expert has no LoRA of its own there"
    if not name:
        return f"llama.cpp's {layout.architecture} has no weight for it"
    if within_layer(name) not in APPLIED:
        return f"llama.cpp loads a LoRA of {name}, and never uses it"
    if name in (EMBEDDING, HEAD) and _may_be_tied(module, layout, loaded):
        other = "its head reads" if name == EMBEDDING else "the embedding reads"
        return (
            f"{other} the same weight, or may: llama.cpp aborts when it decodes with a LoRA of tied embeddings, and "
            "knows no LoRA of a tied head"
        )
    return None


def _may_be_tied(module: str, layout: Layout, loaded: Sequence[Adapter]) -> bool:
    """Whether a weight is another's too, as far as anything tells: what isn't known counts as tied."""
    known = next((one.architecture for one in loaded if one.architecture), None)
    if layout.always_tied or known is None:
        return True
    ties, parameter = known.ties, f"{module}.weight"
    return ties.unclear(parameter) is not None or any(tie.holds is not False for tie in ties.having(parameter))
