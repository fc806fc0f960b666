"""Lists of a model's modules in the order of named_modules(), as a user gives them: read, checked, and followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ..errors import FormatError, MismatchError
from ..inputs import read_input
from ..wording import argument
from .architectures.layout import generalised
from .modules import ModelModules

#: How to print what the order is read from.
HOW_TO_LIST = (
    "print(*(name for name, _ in model.named_modules()), sep='\\n') lists them; the keys of a checkpoint stand in "
    "another order"
)
ANEW = f"List them anew: {HOW_TO_LIST}."

#: Modules of so many kinds in alphabetical order are remarkable.
_REMARKABLE = 3


def read_module_order(path: Path) -> list[str]:
    """Module names from a file, one a line; empty lines and lines that start with `#` don't count."""
    try:
        lines = read_input(path).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise FormatError("not a text file", where=path, hint="Give one module name a line, in UTF-8.") from None
    names = [line.strip().removeprefix("base_model.model.") for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise FormatError(f"names {twice[0]} twice", where=path, hint="Give each module once.")
    return names


def refuse_impossible(names: Sequence[str], said_by: str, where: Path) -> None:
    """Raise MismatchError for a list that isn't in the order of any model's named_modules(), which goes through each
    module's children one after the other, and through numbered ones by their numbers."""
    left: set[str] = set()
    for before, name in pairwise(names):
        old, new = before.split("."), name.split(".")
        depth = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        left.update(".".join(old[:end]) for end in range(depth + 1, len(old) + 1))
        again = any(".".join(new[:end]) in left for end in range(1, len(new) + 1))
        back = depth < min(len(old), len(new)) and old[depth].isdigit() and new[depth].isdigit()
        if again or (back and int(new[depth]) < int(old[depth])):
            raise MismatchError(
                f"{argument(said_by)} names {name} behind {before}: model.named_modules() has them in another order",
                where=where,
                hint=ANEW,
            )


def alphabetical(names: Sequence[str]) -> list[str]:
    """A note where nothing but the list tells the order, and it is that of a checkpoint's keys."""
    if len({generalised(name) for name in names}) < _REMARKABLE or list(names) != _natural_order(names):
        return []
    return [
        f"{argument('module_order')} is in alphabetical order, as the keys of a checkpoint are: is it the model's? "
        f"{HOW_TO_LIST}"
    ]


def _natural_order(names: Iterable[str]) -> list[str]:
    """By the names' parts, numbers by their value."""
    return sorted(names, key=lambda name: [(int(p) if p.isdigit() else 0, p) for p in name.split(".")])


def differ(one_says: str, one: Sequence[str], other_says: str, other: Sequence[str]) -> str:
    place = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return f"{one_says} that module {place} is {one[place]}, {other_says} {other[place]}"


def listed_model(model: ModelModules, names: Sequence[str] | None, where: Path) -> ModelModules:
    """The model with its modules as a list orders them, which may name any module of it; the model where there is none.

    Raises
    ------
    MismatchError
        If the list isn't an order of modules, names none of the model's, or contradicts its known architecture.
    """
    if names is None:
        return model
    refuse_impossible(names, "module_order", where)
    listed = [name for name in names if name in model.modules]
    if not listed:
        raise MismatchError(
            f"{argument('module_order')} names no module of the base that has a weight matrix, but {names[0]}"
            if names
            else f"{argument('module_order')} names no module",
            where=where,
            hint=ANEW,
        )
    known = [name for name in model.modules if name in set(listed)]
    if model.ordered and known != listed:
        says = f"the architecture {model.architecture.model_type} says" if model.architecture else "the base says"
        raise MismatchError(
            differ(says, known, f"{argument('module_order')} says", listed),
            where=where,
            hint=f"Leave {argument('module_order')} out: the order is known.",
        )
    return replace(model, modules={name: model.modules[name] for name in listed}, ordered=True)
