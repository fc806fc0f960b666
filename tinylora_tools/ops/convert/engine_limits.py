"""What vLLM, SGLang, llama.cpp and mlx-lm would refuse, lose or misread of an adapter.

Source: lora/ of vLLM 0.33.0 and of SGLang 0.5.23, tuner/ of mlx-lm 0.32.2; what differs by class comes from the table
of `formats/serving/engines.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from ...formats.serving.engines import Engine, EngineName, engines
from ...formats.serving.mlx_adapter import CLASSES
from .export import Export, Limit, refuse
from .llama_cpp import layout_of, llama_cpp_limits

_LAYER = re.compile(r"(^|\.)layers\.(\d+)\.")
_OF_EXPERTS = ".experts."


def require_fit(name: EngineName, export: Export) -> list[str]:
    """What isn't known of a program and an adapter for it.

    Raises
    ------
    UnsupportedError
        If the program would refuse or lose any of it.
    """
    if name == "llama.cpp":
        layout_of(export)  # which says what isn't known
    return refuse(limits(name, export), export)


def losses(export: Export) -> list[str]:
    """What programs that read PEFT's LoRA would lose or misread of it without a word."""
    found: dict[str, str] = {}
    for name in _LIMITS:
        if name != "mlx":  # it reads another form, and stops at this one
            lost = [limit for limit in limits(name, export) if limit.grade == "lost"]
            found |= {name: f"{lost[0].what}. {lost[0].hint}"} if lost else {}
    return list(found.values())


def limits(name: EngineName, export: Export) -> Iterator[Limit]:
    """What a program doesn't take of an adapter."""
    yield from _LIMITS[name](engines()[name], export)


def _vllm(engine: Engine, export: Export) -> Iterator[Limit]:
    title, facts = engine.title, engine.facts
    model = engine.model(export.class_name, export.model_type)
    if model is None:
        yield _unknown(engine, export)
    elif model["modules"] is None:
        yield _no_lora(engine, export)
        return
    else:
        yield from _without_lora(engine, export, lambda module: _vllm_name(module) in model["modules"])
    yield from export.whole(title, _vllm_grade(export, facts["passed_over"]), facts["saved"])
    if export.differing and not facts["rank_pattern"]:
        yield from export.several_ranks(title, "refused")
    if export.rank > max(facts["ranks"]):
        what = f"the adapter has rank {export.rank}, and {title} takes at most {max(facts['ranks'])}"
        yield Limit(what, "refused", export.merge)


def _vllm_name(module: str) -> str:
    return "experts" if _OF_EXPERTS in f".{module}." else module.rpartition(".")[2]


def _vllm_grade(export: Export, passed_over: list[str]) -> Literal["refused", "lost"]:
    """It passes over an adapted embedding's own weight, and stops at anything else."""
    lost = [name for name in export.brought.other if name.rpartition(".")[0] in export.kinds]
    return "lost" if any(_base_key(name).endswith(tuple(passed_over)) for name in lost) else "refused"


def _base_key(parameter: str) -> str:
    owner, _, last = parameter.rpartition(".")
    return f".{owner}.base_layer.{last}"


def _sglang(engine: Engine, export: Export) -> Iterator[Limit]:
    title, fused = engine.title, engine.facts["fused"]
    model = engine.model(export.class_name, export.model_type)
    if model is None:
        yield _unknown(engine, export)
    else:

        def has(module: str) -> bool:
            name = module.rpartition(".")[2]
            return ("experts" if _OF_EXPERTS in f".{module}." else fused.get(name, name)) in model["modules"]

        outside = [module for module in export.kinds if not _LAYER.search(module) and not has(module)]
        if outside:
            what = f"{title} takes what is called layers.NUMBER for layers, and loses the rest, here {_first(outside)}"
            yield Limit(what, "lost", export.merge)
        yield from _without_lora(engine, export, lambda module: module in outside or has(module))
        looked_up = next((module for module in export.kinds if export.kinds[module] == "Embedding"), None)
        if model["tied"] and looked_up is not None:
            what = f"{title} reads {export.class_name}'s head from {looked_up}, and can't do so once that has LoRA"
            yield Limit(what, "refused", export.merge)
        yield from _halves(title, export)
    yield from export.whole(title, "lost")
    yield from export.several_ranks(title, "refused")


def _halves(title: str, export: Export) -> Iterator[Limit]:
    """Layers of which SGLang fuses several, and fills in only some."""
    names: dict[str, set[str]] = {}
    for module in export.kinds:
        if _LAYER.search(module) and _OF_EXPERTS not in f".{module}.":
            owner, _, name = module.rpartition(".")
            names.setdefault(owner, set()).add(name)
    for owner, found in names.items():
        if found & {"q_proj", "k_proj", "v_proj"} and not found >= {"q_proj", "v_proj"}:
            have = ", ".join(sorted(found & {"q_proj", "k_proj", "v_proj"}))
            what = f"{title} takes no LoRA of {owner}.{have} without both q_proj and v_proj"
            yield Limit(what, "refused", export.merge)
            return
        if "up_proj" in found and "gate_proj" not in found:
            what = f"{title} takes no LoRA of {owner}.up_proj without gate_proj"
            yield Limit(what, "refused", export.merge)
            return


def _mlx(engine: Engine, export: Export) -> Iterator[Limit]:
    title = engine.title
    if export.class_name not in CLASSES:
        named = export.class_name or "a class without a name"
        what = f"{named} isn't among the classes whose LoRA was compared with {title}'s"
        yield Limit(what, "refused", export.merge)
        return
    for module, kind in export.kinds.items():
        if _OF_EXPERTS in f".{module}.":
            what = f"{module}: {title} holds the experts of a layer in one, and one expert has no LoRA there"
            yield Limit(what, "refused", export.merge)
        elif kind == "Embedding" and (export.tied(module) or engine.models[export.model_type]["tied"]):
            what = f"{module}: its head reads the same weight, or may, and {title} adds an embedding's LoRA to both"
            yield Limit(what, "refused", export.merge)
        elif not _LAYER.search(module) and kind != "Embedding" and export.tied(module):
            what = f"{module}: the embedding reads the same weight, or may, and {title} knows no LoRA of a tied head"
            yield Limit(what, "refused", export.merge)
    yield from export.whole(title, "refused")
    yield from export.several_ranks(title, "refused")


def _unknown(engine: Engine, export: Export) -> Limit:
    """What to say of a class that a program has no model of its own for."""
    if not export.class_name:
        what = f"no config.json of the base tells its class, so what {engine.title} takes of it isn't known"
    else:
        what = (
            f"{engine.title} {engine.release} has no {export.class_name} of its own, and what it takes where it runs "
            "transformers' isn't known"
        )
    return Limit(what, "unknown", export.merge)


def _no_lora(engine: Engine, export: Export) -> Limit:
    return Limit(f"{engine.title} {engine.release} has no LoRA for {export.class_name}", "refused", export.merge)


def _without_lora(engine: Engine, export: Export, has: Callable[[str], bool]) -> Iterator[Limit]:
    lacking = [module for module in export.kinds if not has(module)]
    if lacking:
        what = f"{engine.title} {engine.release} has no LoRA for {_first(lacking)} of {export.class_name}"
        yield Limit(what, "refused", export.merge)


def _first(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


_LIMITS: Mapping[EngineName, Callable[[Engine, Export], Iterator[Limit]]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": llama_cpp_limits,
    "mlx": _mlx,
}
