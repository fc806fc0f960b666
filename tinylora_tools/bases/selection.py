"""Which modules of a model an adapter targets: PEFT's matching rules.

Source: `check_target_module_exists`, `_maybe_include_all_linear_layers` and `_prepare_adapter_config` in
peft/tuners/tuners_utils.py, `_set_trainable` in peft/utils/other.py, of PEFT 0.21.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ..errors import MismatchError, UndeterminedError, UnsupportedError
from ..formats.checkpoint import Checkpoint
from ..formats.peft.config import ALL_LINEAR, TinyLoraConfig
from ..formats.peft.expressions import expression
from ..wording import argument
from .modules import ModelModules, Module
from .quantization import BLOCKS, in_parts, refusal_of_parts, refuse_packed

#: From so many targets on, PEFT looks for fewer that select the same.
_MANY = 20

#: Embeddings that PEFT saves whole when they are targeted by exactly these names.
_SAVED_EMBEDDINGS = ("embed_tokens", "lm_head")


class Kinded(Protocol):
    """A module of a kind: "Linear", "Conv1D" or "Embedding"."""

    @property
    def kind(self) -> str: ...


M = TypeVar("M", bound=Kinded)
M_co = TypeVar("M_co", bound=Kinded, covariant=True)


class Targetable(Protocol[M_co]):
    """A model whose modules can be targeted, from a checkpoint's headers (`ModelModules`) or live."""

    @property
    def modules(self) -> Mapping[str, M_co]: ...

    @property
    def input(self) -> str | None: ...

    @property
    def output(self) -> str | None: ...

    @property
    def model_type(self) -> str | None: ...

    def inner_names(self) -> set[str]: ...


@dataclass(frozen=True)
class Selection(Generic[M]):
    """The targeted modules in the model's order, and the target_modules that select them in PEFT."""

    modules: tuple[M, ...]
    target_modules: str | tuple[str, ...]


def select(model: Targetable[M], config: TinyLoraConfig, where: str | Path) -> Selection[M]:
    """The modules that PEFT would adapt.

    Raises
    ------
    UndeterminedError
        If no targets are given and PEFT has no default for the model.
    MismatchError
        If nothing matches.
    UnsupportedError
        If a target is no Linear, Conv1D or Embedding.
    """
    config.check_targets()
    wanted = config.target_modules if config.target_modules is not None else default_targets(model, where)
    if wanted == ALL_LINEAR:
        wanted = _all_linear(model, config)
        if not wanted:
            raise MismatchError("the model has no linear layer", where=where)
    if isinstance(wanted, tuple) and len(wanted) >= _MANY:
        fewer = shortest_targets(wanted, model)
        wanted = fewer if len(fewer) < len(wanted) else wanted
    settled = replace(config, target_modules=wanted)
    wrong = [name for name in sorted(model.inner_names()) if settled.matches(name)]
    if wrong:
        raise UnsupportedError(
            f"{argument('target_modules')} matches {wrong[0]}, which is no Linear, Conv1D or Embedding",
            where=where,
            hint="TinyLoRA, like PEFT, adapts only these. Name the layers inside it, or narrow the expression.",
        )
    matching = tuple(module for name, module in model.modules.items() if settled.matches(name))
    if not matching:
        raise _nothing(model, settled, where)
    return Selection(matching, wanted)


def select_plain(base: Checkpoint, model: ModelModules, config: TinyLoraConfig) -> Selection[Module]:
    """The modules that PEFT would adapt, whose weights are plain numbers, or read as such.

    Raises
    ------
    UnsupportedError
        If one of them is quantized otherwise.
    TinyLoraError
        As `select`.
    """
    config.check_targets()
    wanted = config.target_modules if config.target_modules is not None else default_targets(model, base.path)
    settled = replace(config, target_modules=wanted)
    parts = in_parts(base, model.architecture)
    _refuse_fused(base, model, None if wanted == ALL_LINEAR else settled)
    matching = {module for module in parts if wanted == ALL_LINEAR or settled.matches(module)}
    parameters = {
        module for module in matching if parts[module].endswith(BLOCKS)
    }  # of experts, which PEFT leaves alone
    for module in sorted(matching - parameters):
        raise refusal_of_parts(base, module, parts[module])
    try:
        selection = select(model, config, base.path)
    except MismatchError:
        for module in sorted(parameters):
            raise refusal_of_parts(base, module, parts[module]) from None
        raise
    for targeted in selection.modules:
        refuse_packed(base, targeted.tensor.name)
    return selection


def _refuse_fused(base: Checkpoint, model: ModelModules, wanted: TinyLoraConfig | None) -> None:
    """Raise UnsupportedError where a target's weight is in one tensor with others; None wants all linear layers."""
    for name, kind in sorted(model.fused.items()):
        if kind != "Embedding" and name != model.output if wanted is None else wanted.matches(name):
            raise UnsupportedError(
                f"{name}: its weights are fused with others in this checkpoint and can't be addressed singly",
                where=base.path,
                hint=f"Leave it out of {argument('target_modules')}, or make the adapter in the loaded model.",
            )


def saved_modules(model: Targetable[M], config: TinyLoraConfig) -> set[str]:
    """Names of the modules that are trained and saved whole."""
    names = model.inner_names() | model.modules.keys()
    return {name for name in names if any(name.endswith(end) for end in config.saved)}


def is_saved_embedding(name: str, model: Targetable[M], target_modules: str | tuple[str, ...]) -> bool:
    """Whether PEFT's save_embedding_layers="auto" saves a targeted embedding whole."""
    if isinstance(target_modules, str):
        named = [n for n in model.modules if n.rpartition(".")[2] in _SAVED_EMBEDDINGS]
        chosen = any(expression(target_modules).fullmatch(n) for n in named)
    else:
        chosen = any(n in target_modules for n in _SAVED_EMBEDDINGS)
    return chosen and name in (model.input, model.output)


def may_save_embeddings(target_modules: str | tuple[str, ...]) -> bool:
    """Whether PEFT might save any: all that can be told without the model."""
    return isinstance(target_modules, str) or any(name in target_modules for name in _SAVED_EMBEDDINGS)


def default_targets(model: Targetable[M], where: str | Path) -> str | tuple[str, ...]:
    """What PEFT targets in this type of model by default.

    Raises
    ------
    UndeterminedError
        If it has no default.
    """
    kind = model.model_type
    found = _default_table().get(kind or "")
    if found is None:
        raise UndeterminedError(
            f"PEFT has no default targets for {kind}"
            if kind
            else "no architecture is known, so no default targets are",
            where=where,
            hint=f"Say with {argument('target_modules')} which modules to adapt, for example q_proj and v_proj, or "
            "all-linear.",
        )
    return found


@lru_cache(maxsize=1)
def _default_table() -> dict[str, str | tuple[str, ...]]:
    text = (Path(__file__).parents[1] / "data" / "default_targets.json").read_text("utf-8")
    table = json.loads(text)["targets"]
    return {kind: value if isinstance(value, str) else tuple(value) for kind, value in table.items()}


def _all_linear(model: Targetable[M], config: TinyLoraConfig) -> tuple[str, ...]:
    """The names of every Linear and Conv1D but the output embedding, or the head of a classifier."""
    head = model.output
    if head is None and config.task_type == "SEQ_CLS":
        head = next((name for name in config.heads[::-1] if name in model.modules or name in model.inner_names()), None)
    return tuple(name for name, module in model.modules.items() if module.kind != "Embedding" and name != head)


def shortest_targets(wanted: Iterable[str], model: Targetable[M]) -> tuple[str, ...]:
    """A few ends of names that select what many names, or ends of names, select: each as short as no other module has
    it, found in the order in which PEFT finds them."""
    all_names = model.modules.keys() | model.inner_names()
    wanted = set(wanted)
    suffixes = tuple(f".{name}" for name in wanted)
    others = {end for name in all_names if name not in wanted and not name.endswith(suffixes) for end in _ends(name)}
    found: set[str] = set()
    for ends in sorted(_ends(name) for name in wanted):
        if not any(ends[-1].endswith(f".{end}") for end in found):
            new = next((end for end in ends if end not in found and end not in others), None)
            found |= {new} if new is not None else set()
    return tuple(sorted(found)) or tuple(wanted)


def _ends(name: str) -> list[str]:
    """`c`, `b.c` and `a.b.c` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in reversed(range(len(parts)))]


def _nothing(model: Targetable[M], config: TinyLoraConfig, where: str | Path) -> MismatchError:
    import difflib  # only where nothing matched

    wanted = config.target_modules or ()
    ends = sorted({name.rpartition(".")[2] for name in model.modules})
    what = wanted if isinstance(wanted, str) else ", ".join(wanted)
    limited = " in the layers asked for" if config.layers_to_transform else ""
    near = [] if isinstance(wanted, str) else [n for w in wanted for n in difflib.get_close_matches(w, ends, 2)]
    hint = f"Did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
    few = ", ".join(ends[:12]) + (", ..." if len(ends) > 12 else "")
    return MismatchError(f"no module{limited} matches {what}", where=where, hint=f"{hint}The model has {few}.")
