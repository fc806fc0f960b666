"""Which modules of a model an adapter targets: PEFT's matching rules.

Source: `check_target_module_exists`, `_maybe_include_all_linear_layers` and `_prepare_adapter_config` in
peft/tuners/tuners_utils.py, `_set_trainable` in peft/utils/other.py, of PEFT 0.21.2.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from ..errors import FormatError, MismatchError, UndeterminedError, UnsupportedError
from .modules import ModelModules, Module

ALL_LINEAR = "all-linear"

#: A target that holds one of these is a regular expression.
_REGEX_CHARACTERS = frozenset("*+?()[]{}|^$\\")

#: From so many targets on, PEFT looks for fewer that select the same.
_MANY = 20

#: Modules that PEFT's classes for a task train and save whole, whatever the configuration lists.
_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


@dataclass(frozen=True, slots=True)
class Targets:
    """What to adapt, in TinyLoraConfig's terms.

    `modules` is "all-linear", a regular expression (another string), names or ends of names (a tuple), or None for
    PEFT's default of the model type.
    """

    modules: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    task_type: str | None = None

    def __post_init__(self) -> None:
        for option, patterns in (("modules_to_save", self.modules_to_save), ("layers_pattern", self.layers_pattern)):
            for pattern in patterns:  # PEFT puts them into expressions as they are
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise FormatError(f"{option} names {pattern!r}, which is no expression: {error}") from None

    @property
    def heads(self) -> tuple[str, ...]:
        """What PEFT adds to modules_to_save for the task: names of which the model has one."""
        return _HEADS.get(self.task_type or "", ())

    @property
    def saved(self) -> tuple[str, ...]:
        """modules_to_save, with those that PEFT adds for the task."""
        return tuple(dict.fromkeys((*self.modules_to_save, *self.heads)))


@dataclass(frozen=True, slots=True)
class Selection:
    """The targeted modules in the model's order, and the target_modules that select them in PEFT."""

    modules: tuple[Module, ...]
    target_modules: str | tuple[str, ...]


def parse_targets(text: str) -> str | tuple[str, ...]:
    """The value of --target-modules: "all-linear", a regular expression, or names with commas between them."""
    if text.lower() == ALL_LINEAR:
        return ALL_LINEAR
    if _REGEX_CHARACTERS & set(text):
        try:
            re.compile(text)
        except re.error as error:
            raise FormatError(f"--target-modules {text!r} is no regular expression: {error}") from None
        return text
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def select(model: ModelModules, targets: Targets, where: Path) -> Selection:
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
    wanted = targets.modules if targets.modules is not None else default_targets(model, where)
    if wanted == ALL_LINEAR:
        wanted = _all_linear(model, targets)
        if not wanted:
            raise MismatchError("the model has no linear layer", where=where)
    if isinstance(wanted, tuple) and len(wanted) >= _MANY:
        fewer = shortest_targets(wanted, model)
        wanted = fewer if len(fewer) < len(wanted) else wanted
    wrong = [name for name in sorted(model.inner_names()) if _matches(name, wanted, targets)]
    if wrong:
        raise UnsupportedError(
            f"--target-modules matches {wrong[0]}, which is no Linear, Conv1D or Embedding",
            where=where,
            hint="TinyLoRA, like PEFT, adapts only these. Name the layers inside it, or narrow the expression.",
        )
    matching = tuple(module for name, module in model.modules.items() if _matches(name, wanted, targets))
    if not matching:
        raise _nothing(model, wanted, targets, where)
    return Selection(matching, wanted)


def saved_modules(model: ModelModules, targets: Targets) -> set[str]:
    """Names of the modules that are trained and saved whole."""
    names = model.inner_names() | model.modules.keys()
    return {name for name in names if any(name.endswith(end) for end in targets.saved)}


def default_targets(model: ModelModules, where: Path) -> str | tuple[str, ...]:
    """What PEFT targets in this type of model by default.

    Raises
    ------
    UndeterminedError
        If it has no default.
    """
    kind = model.architecture.model_type if model.architecture else None
    found = _default_table().get(kind or "")
    if found is None:
        raise UndeterminedError(
            f"PEFT has no default targets for {kind}"
            if kind
            else "no architecture is known, so no default targets are",
            where=where,
            hint="Say with --target-modules which modules to adapt, for example q_proj,v_proj or all-linear.",
        )
    return found


@lru_cache(maxsize=1)
def _default_table() -> dict[str, str | tuple[str, ...]]:
    text = files("tinylora_tools").joinpath("data", "default_targets.json").read_text("utf-8")
    table = json.loads(text)["targets"]
    return {kind: value if isinstance(value, str) else tuple(value) for kind, value in table.items()}


def _excluded(name: str, targets: Targets) -> bool:
    return any(re.match(rf"(^|.*\.){saved}($|\..*)", name) for saved in targets.saved)


def _all_linear(model: ModelModules, targets: Targets) -> tuple[str, ...]:
    """The names of every Linear and Conv1D but the output embedding, or the head of a classifier."""
    head = model.output
    if head is None and targets.task_type == "SEQ_CLS":
        head = next(
            (name for name in _HEADS["SEQ_CLS"][::-1] if name in model.modules or name in model.inner_names()), None
        )
    return tuple(name for name, module in model.modules.items() if module.kind != "Embedding" and name != head)


def shortest_targets(wanted: Iterable[str], model: ModelModules) -> tuple[str, ...]:
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


def _matches(name: str, wanted: str | tuple[str, ...], targets: Targets) -> bool:
    if _excluded(name, targets):
        return False
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    if name in wanted:
        return True
    if not any(name.endswith(f".{end}") for end in wanted):
        return False
    return not targets.layers_to_transform or _layer_of(name, targets) in targets.layers_to_transform


def _layer_of(name: str, targets: Targets) -> int | None:
    """The number of the layer that a module is in: the first number in its name, or the first after a pattern."""
    patterns = [rf"(?:^|.*?\.){pattern}\.(?P<number>\d+)\." for pattern in targets.layers_pattern]
    for pattern in patterns or [r".*?\.[^.]*\.(?P<number>\d+)\."]:
        if match := re.match(pattern, name):
            return int(match["number"])
    return None


def _nothing(model: ModelModules, wanted: str | tuple[str, ...], targets: Targets, where: Path) -> MismatchError:
    ends = sorted({name.rpartition(".")[2] for name in model.modules})
    what = wanted if isinstance(wanted, str) else ", ".join(wanted)
    limited = " in the layers asked for" if targets.layers_to_transform else ""
    near = [] if isinstance(wanted, str) else [n for w in wanted for n in difflib.get_close_matches(w, ends, 2)]
    hint = f"Did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
    few = ", ".join(ends[:12]) + (", ..." if len(ends) > 12 else "")
    return MismatchError(f"no module{limited} matches {what}", where=where, hint=f"{hint}The model has {few}.")
