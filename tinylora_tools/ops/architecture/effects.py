"""What may become of layers on the ways through a method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Bits of what becomes of a layer.
CALLED, TAKEN = 1, 2

#: For a path, what may become of it; one that isn't there is left alone.
Effects = dict[str, set[int]]


def both(first: Effects, second: Effects) -> Effects:
    """One after the other."""
    return {path: {a | b for a in first.get(path, {0}) for b in second.get(path, {0})} for path in {**first, **second}}


def either(first: Effects, second: Effects) -> Effects:
    """One or the other."""
    return {path: first.get(path, {0}) | second.get(path, {0}) for path in {**first, **second}}


def all_of(several: Iterable[Effects]) -> Effects:
    """One after another."""
    found: Effects = {}
    for one in several:
        found = both(found, one)
    return found


def any_of(several: Iterable[Effects]) -> Effects:
    """Any one of several."""
    ways = list(several)
    found = ways[0] if ways else {}
    for one in ways[1:]:
        found = either(found, one)
    return found


@dataclass
class Scope:
    """What variables hold.

    Attributes
    ----------
    modules : dict
        Paths, of variables that stand for modules.
    values : dict
        What becomes of layers once a variable is used: those whose weight it was made of are taken then.
    constants : dict
        The values of parameters that nothing else is given for.
    """

    modules: dict[str, str]
    values: dict[str, Effects] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Scope:
        return Scope(dict(self.modules), dict(self.values), dict(self.constants))

    def take_over(self, ways: Sequence[Scope]) -> None:
        """Hold what any of several ways has left there."""
        self.modules = {name: path for way in reversed(ways) for name, path in way.modules.items()}
        names = {name for way in ways for name in way.values}
        self.values = {name: any_of(way.values.get(name, {}) for way in ways) for name in names}
        for name in [name for name in self.constants if any(name not in way.constants for way in ways)]:
            del self.constants[name]

    def set(self, name: str, path: str | None, value: Effects) -> None:
        for known in (self.modules, self.values, self.constants):
            known.pop(name, None)
        if path is not None:
            self.modules[name] = path
        if value:
            self.values[name] = value
