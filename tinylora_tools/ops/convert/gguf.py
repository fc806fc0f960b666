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
from ...adapters.load import ModuleOrder
from ...bases.base import Base
from ...checks import one_of
from ...errors import TinyLoraError
from ...formats.gguf.layout import EMBEDDING, Layout
from ...formats.gguf.lora_file import Pair, require_gguf, write_lora
from ...formats.peft.release import Seeding
from ...formats.serving.engines import commands
from ...inputs import watches_inputs
from ...output.staging import require_ending, staged_file
from ...progress import Progress
from ..opened import AdapterLike, opened_for
from ..scales import one_each
from .export import Export, refuse
from .llama_cpp import gguf_limits, layout_of, names_of
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
    export = Export.of(loaded, padded=True)
    layout, config = layout_of(export), export.config
    name_of = names_of(layout, export)
    refuse(gguf_limits(layout, export, name_of), export)
    outtype = _outtype_of(config) if outtype == "auto" else outtype
    update = summed(loaded, one_each(scale, len(loaded)), _DTYPES[outtype], release, padded=True)
    pairs = {
        name_of(module): _pair(module, factors, layout, config, name_of(module), export.path)
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
        serve=commands("gguf", output, "", update.rank),
        warnings=soundness.notes_of(loaded),
    )


def _outtype_of(config: Mapping[str, Any]) -> str:
    """The type that config.json says of the weights."""
    said = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return next((short for short, name in _DTYPES.items() if name == said), "f32")


def _pair(module: str, factors: Factors, layout: Layout, config: Mapping[str, Any], name: str, where: Path) -> Pair:
    if name == EMBEDDING:  # looked up by rows of a, and b is (dim, r)
        return Pair(factors.left, factors.right.T)
    try:
        order = layout.order(name, config, len(factors.left))
    except TinyLoraError as error:
        raise type(error)(f"{module}: {error.what}", where=where, hint=error.hint) from None
    return Pair(factors.right, factors.left if order is None else factors.left[order])
