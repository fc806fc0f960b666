"""Module names in the order of named_modules(), written as one tree: the form that `architectures.layout` reads.

Siblings come in an order that every instance of their parent agrees with, whichever of them it has: the layers of a
hybrid model differ, and no single one shows the order of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from ...bases.architectures.layout import Layout, generalised
from ...errors import UndeterminedError

#: Parents, and children in their order, by generalised names.
_Siblings = dict[str, dict[str, set[str]]]


def written(models: Iterable[Mapping[str, str]]) -> str:
    """One tree of all modules of several models of a class.

    Parameters
    ----------
    models : iterable of mapping
        Each module's name to its letter (see `architectures.layout.KINDS`), in the order of named_modules().

    Raises
    ------
    UndeterminedError
        If one name stands for two kinds, or two models (or two layers of one) contradict each other.
    """
    models = list(models)
    kinds: dict[str, str] = {}
    before: _Siblings = {}
    for model in models:
        for name, letter in model.items():
            if kinds.setdefault(generalised(name), letter) != letter:
                raise UndeterminedError(f"{generalised(name)} is of kind {letter} here and {kinds[generalised(name)]}")
        _note_siblings(model, before)
    text = " ".join(_nodes("", kinds, {parent: _merged(parent, order) for parent, order in before.items()}))
    layout = Layout(text)
    for model in models:
        if sorted(model, key=layout.sort_key) != list(model):
            raise UndeterminedError("no order of siblings gives the order of its modules")
    return text


def _note_siblings(names: Iterable[str], before: _Siblings) -> None:
    """Add which children come before which, instance by instance."""
    children: dict[str, dict[str, None]] = {}
    for name in names:
        parts = name.split(".")
        for depth, part in enumerate(parts):
            children.setdefault(".".join(parts[:depth]), {})["*" if part.isdigit() else part] = None
    for parent, below in children.items():
        known = before.setdefault(generalised(parent), {})
        earlier: list[str] = []
        for part in below:
            known.setdefault(part, set()).update(earlier)
            earlier.append(part)


def _merged(parent: str, before: Mapping[str, set[str]]) -> list[str]:
    """Siblings in an order that agrees with all; those that nothing orders as they were met."""
    try:
        sorter = TopologicalSorter(before)
        sorter.prepare()
    except CycleError as error:
        raise UndeterminedError(f"{parent or 'the model'} orders {', '.join(error.args[1])} differently") from None
    met = {part: place for place, part in enumerate(before)}
    merged: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=met.__getitem__)
        merged += ready
        sorter.done(*ready)
    return merged


def _nodes(parent: str, kinds: Mapping[str, str], siblings: Mapping[str, list[str]]) -> Iterator[str]:
    """The children of a parent: `name`, `name:E`, `name(...)`, or `name.only_child`."""
    for part in siblings.get(parent, []):
        path = f"{parent}.{part}" if parent else part
        letter = kinds.get(path, "")
        below = list(_nodes(path, kinds, siblings))
        mark = f":{letter}" if letter and (letter != "L" or below) else ""
        if not below:
            yield part + mark
        elif len(below) == 1 and not mark:
            yield f"{part}.{below[0]}"
        else:
            yield f"{part}{mark}({' '.join(below)})"
