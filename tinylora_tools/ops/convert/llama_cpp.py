"""What llama.cpp takes of a LoRA adapter, as GGUF or through its own converter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from ...errors import UndeterminedError, UnsupportedError
from ...formats.gguf.layout import APPLIED, EMBEDDING, HEAD, LAYOUTS, Layout, number, why_not
from ...formats.gguf.lora_file import weight_names, within_layer
from ...formats.serving.engines import Engine, engines
from ...wording import argument, call
from .export import Export, Limit

#: Whose weights llama.cpp's converter transposes, and with them factors that stand in a Linear's order already.
_TRANSPOSED = "GPT2LMHeadModel"


def layout_of(export: Export) -> Layout:
    """How llama.cpp has the base's weights.

    Raises
    ------
    UndeterminedError
        If no config.json is at hand.
    UnsupportedError
        If the class wasn't compared with llama.cpp's.
    """
    if not export.config:
        raise UndeterminedError(
            "no config.json of the base is at hand, which tells what llama.cpp calls the weights and how it has them"
            + (f"; the adapter names {export.base_name!r}" if export.base_name else ""),
            where=export.path,
            hint=f"Say with {argument('base', ...)} where it is: its weights aren't needed.",
        )
    if (reason := why_not(export.class_name, export.config)) is not None:
        raise UnsupportedError(reason, where=export.path, hint=merge_for_llama_cpp(export))
    return LAYOUTS[export.class_name]


def names_of(layout: Layout, export: Export) -> Callable[[str], str]:
    """llama.cpp's name for the weight of a module, or nothing."""
    find = weight_names(layout.architecture, number(export.config, "num_hidden_layers", "n_layer", "num_layers"))
    return lambda module: find(module) or ""


def gguf_limits(
    layout: Layout,
    export: Export,
    name_of: Callable[[str], str],
    whole: Literal["refused", "lost"] = "refused",
) -> Iterator[Limit]:
    """What llama.cpp itself doesn't take; `whole` says what would become of what comes along whole."""
    for module in export.kinds:
        if (found := _refused(module, name_of(module), layout, export)) is not None:
            reason, lost = found
            yield Limit(f"{module}: {reason}", "lost" if lost else "refused", merge_for_llama_cpp(export))
    yield from export.whole("llama.cpp", whole)


def llama_cpp_limits(engine: Engine, export: Export) -> Iterator[Limit]:
    """What comes of PEFT's form in llama.cpp's convert_lora_to_gguf.py."""
    layout = LAYOUTS.get(export.class_name)
    if layout is None or why_not(export.class_name, export.config) is not None:
        yield Limit(f"llama.cpp: {why_not(export.class_name, export.config)}", "unknown", merge_for_llama_cpp(export))
        return
    if export.class_name == _TRANSPOSED:
        what = f"{engine.title}'s convert_lora_to_gguf.py transposes what a LoRA of {_TRANSPOSED} has in order"
        yield Limit(what, "lost", f"Write GGUF with `{call('to_gguf', export.path, 'ADAPTER.gguf')}`.")
    yield from export.several_ranks(engine.title, "lost")
    lost = any(_passed_over(name, export) for name in export.brought.other)
    name_of = _names_without_the_package(layout, export)
    yield from gguf_limits(layout, export, name_of, "lost" if lost else "refused")


def _passed_over(parameter: str, export: Export) -> bool:
    """Whether the converter goes on without what comes along whole: norms, and adapted layers' own weights."""
    owner, _, last = parameter.rpartition(".")
    return "norm" in parameter or (owner in export.kinds and last == "weight")


def _names_without_the_package(layout: Layout, export: Export) -> Callable[[str], str]:
    """Names as the gguf package has them, or where it isn't installed, as far as a layer's type tells."""
    try:
        return names_of(layout, export)
    except UnsupportedError:

        def guess(module: str) -> str:
            if export.kinds[module] == "Embedding":
                return EMBEDDING
            return HEAD if module.rpartition(".")[2] in ("lm_head", "embed_out") else "blk.0.attn_q"

        return guess


def merge_for_llama_cpp(export: Export) -> str:
    return f"{export.merge[:-1]} after llama.cpp's own `convert_hf_to_gguf.py MERGED`."


def _refused(module: str, name: str, layout: Layout, export: Export) -> tuple[str, bool] | None:
    """Why llama.cpp has no LoRA for a module, and whether it shows only when it runs; None where it has."""
    if ".experts." in f".{module}.":
        return (
            "llama.cpp holds the experts of a layer in one tensor, and one expert has no LoRA of its own there",
            False,
        )
    if not name:
        return f"llama.cpp's {layout.architecture} has no weight for it", False
    if within_layer(name) not in APPLIED:
        return f"llama.cpp loads a LoRA of {name}, and never uses it", True
    tied = engines()["llama.cpp"].models[export.class_name]["tied"]
    if name in (EMBEDDING, HEAD) and (tied or export.tied(module)):
        other = "its head reads" if name == EMBEDDING else "the embedding reads"
        return (
            f"{other} the same weight, or may: llama.cpp aborts when it decodes with a LoRA of tied embeddings, and "
            "knows no LoRA of a tied head"
        ), name == EMBEDDING
    return None
