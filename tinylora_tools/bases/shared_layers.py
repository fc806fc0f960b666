"""Whether a model whose architecture nobody knows may share a weight between its numbered layers, as far as its
checkpoint shows it.

Most models have a weight of its own for each layer. Where layers share one, as Zamba's do, a checkpoint holds it for
the first of them alone, or for each with the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ..formats.checkpoint import Checkpoint
from ..formats.tensors import same_values
from .architectures.layout import generalised


class SharedLayers:
    """What a checkpoint shows of weights that layers share."""

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self._beginnings: dict[str, bytes] = {}
        self._layers: dict[str, dict[str, frozenset[str]]] = {}

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """Tensors by the pattern of their names."""
        found: dict[str, list[str]] = {}
        for key in self.base.shard_of:
            found.setdefault(generalised(key), []).append(key)
        return found

    def sign(self, key: str) -> str | None:
        """What shows that a stored weight may be several layers'; None if nothing does."""
        for other in self._alike[generalised(key)]:
            if other != key and self._same(key, other):
                return f"{other} is stored with the same values"
        return next(self._lacking(key), None)

    def _same(self, key: str, other: str) -> bool:
        beginning = self._beginning(key)
        if beginning[:-4] == beginning[4:] or beginning != self._beginning(other):  # one number all over tells nothing
            return False
        return same_values(self.base.source(key), key, self.base.source(other), other)

    def _beginning(self, key: str) -> bytes:
        if key not in self._beginnings:
            self._beginnings[key] = next(iter(self.base.source(key).pieces(key)), b"")[:4096]
        return self._beginnings[key]

    def _lacking(self, key: str) -> Iterator[str]:
        """Layers that have all but some of what this one has, the weight not among it."""
        parts = key.split(".")
        for depth in (depth for depth, part in enumerate(parts) if part.isdigit()):
            holder, own = ".".join(parts[:depth]), parts[depth]
            layers = self._layers_of(holder)
            for number, inside in layers.items():
                if inside < layers[own] and ".".join(parts[depth + 1 :]) not in inside:
                    yield f"{holder}.{number}".lstrip(".") + " has all that this layer has but such modules"

    def _layers_of(self, holder: str) -> dict[str, frozenset[str]]:
        """What each layer in a list has, by its number."""
        if holder not in self._layers:
            found: dict[str, set[str]] = {}
            beginning = f"{holder}." if holder else ""
            for key in self.base.shard_of:
                if key.startswith(beginning):
                    number, _, inside = key.removeprefix(beginning).partition(".")
                    if number.isdigit():
                        found.setdefault(number, set()).add(inside)
            self._layers[holder] = {number: frozenset(inside) for number, inside in found.items()}
        return self._layers[holder]
