"""One class of a family as one release of transformers has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from .layout import Layout, filled, generalised
from .renaming import Renaming

#: What checkpoints converted from TensorFlow, such as bert-base-uncased's, call two parameters: transformers renames
#: them in every model.
_FROM_TENSORFLOW = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class Described:
    """What the data say of a class in a release.

    Attributes
    ----------
    release, name : str
        Of transformers, and of the class.
    prefix : str
        The name that the bare model has in a class with a head; "" where it has none.
    input, output : str, optional
        The input and the output embedding.
    fused : frozenset of str
        Patterns of parameters that no single tensor is stored for.
    scales : mapping
        Patterns of embeddings that multiply what they look up, to what by.
    whole_where : mapping
        Patterns of modules that are as `layout` says where config.json has the entries of one of these groups, or
        leaves them out; with others the model may take their weights without calling them.
    ties : list
        For `architectures.ties`.
    flags : list of str
        Entries of config.json that decide on those.
    """

    def __init__(self, release: str, name: str, data: Mapping[str, Any]) -> None:
        self.release = release
        self.name = name
        self.prefix: str = data.get("prefix", "")
        self.input: str | None = data.get("input")
        self.output: str | None = data.get("output")
        self.fused = frozenset(data.get("fused", ()))
        self.scales: Mapping[str, Mapping[str, Any]] = data.get("scales", {})
        self.whole_where: Mapping[str, list[Mapping[str, Any]]] = data.get("whole_where", {})
        self.ties: list[Mapping[str, Any]] = data.get("ties", [])
        self.flags: list[str] = data.get("flags", [])
        self._float32: tuple[str, ...] = tuple(data.get("float32", ()))
        self._float32_always: tuple[str, ...] = tuple(data.get("float32_always", ()))
        self.renaming = Renaming(data.get("stored", {}))
        self._older = Renaming(data["older"]) if "older" in data else self.renaming
        self._modules: str = data.get("modules", "")

    def __repr__(self) -> str:
        return f"<{self.name} of transformers {self.release}>"

    @property
    def layout(self) -> Layout:
        return _layout(self._modules)

    @cached_property
    def containers(self) -> frozenset[str]:
        """Patterns of everything that holds a targetable module, somewhere below."""
        parts = (pattern.split(".")[:-1] for pattern in self.layout.letters)
        return frozenset(".".join(p[:depth]) for p in parts for depth in range(len(p) + 1))

    def has(self, module: str) -> bool:
        return generalised(module) in self.layout

    def in_float32(self, parameter: str, dtype: str) -> bool:
        """Whether transformers loads a parameter in float32 that is stored in a 16-bit dtype."""
        if dtype not in ("float16", "bfloat16"):
            return False
        kept = self._float32_always + (self._float32 if dtype == "float16" else ())
        if self.release.startswith("4."):
            return any(f".{part}." in f".{parameter}." for part in kept)
        return any(re.search(part.replace("*", ".*"), parameter) for part in kept)

    def may_have(self, parameter: str) -> bool:
        """Whether a parameter's place is in this class: a module's weight, or beside modules."""
        *module, _ = generalised(parameter).split(".")
        return ".".join(module) in self.layout or ".".join(module[:-1]) in self.containers

    def stored_keys(self, parameter: str) -> list[str]:
        """Names that a checkpoint may store a parameter under: as save_pretrained names it, as that of older releases
        did, as the model does, and each with the bare model's prefix added or left out."""
        keys = [self.renaming.stored(parameter), self._older.stored(parameter), parameter]
        if self.prefix:
            keys += [_toggled(key, f"{self.prefix}.") for key in keys]
        keys += [
            key.removesuffix(new) + old for key in keys for new, old in _FROM_TENSORFLOW.items() if key.endswith(new)
        ]
        return list(dict.fromkeys(keys))

    def parameters_of(self, keys: Iterable[str]) -> dict[str, str]:
        """Each parameter that a tensor of a checkpoint is loaded into, to that tensor's name. The bare model's prefix
        is added to all names, or taken from them, where more of them fit so."""
        patterns = {key: key if self._by_number else generalised(key) for key in keys}
        alike: dict[str, list[str]] = {}  # a mixture of experts has a hundred thousand names, and a few patterns
        for key, pattern in patterns.items():
            alike.setdefault(pattern, []).append(key)

        def fitting(places: Mapping[str, str | None]) -> int:
            return sum(len(alike[pattern]) for pattern, name in places.items() if name and self._is_weight(name))

        changes = (_kept, _with, _without) if self.prefix else (_kept,)
        trials = ({pattern: self._place(same[0], change) for pattern, same in alike.items()} for change in changes)
        places = max(trials, key=fitting)
        found: dict[str, str] = {}
        for key, pattern in patterns.items():
            name = places[pattern]
            if name is not None:
                found.setdefault(name if key is alike[pattern][0] else filled(generalised(name), key), key)
        return found

    @property
    def _by_number(self) -> bool:
        return self.renaming.by_number or self._older.by_number

    def _place(self, key: str, change: Callable[[str, str], str | None]) -> str | None:
        """The parameter that a tensor is loaded into, once its name is changed; None if the class has no place for
        it."""
        changed = change(_modern(key), f"{self.prefix}.")
        if changed is None:
            return None
        names = (*self.renaming.parameters(changed), *self._older.parameters(changed), changed)
        fitting = [name for name in names if self.may_have(name)]
        return next(filter(self._is_weight, fitting), fitting[0] if fitting else None)

    def _is_weight(self, parameter: str) -> bool:
        return parameter.endswith(".weight") and self.has(parameter.removesuffix(".weight"))


def _modern(key: str) -> str:
    return next((key.removesuffix(old) + new for new, old in _FROM_TENSORFLOW.items() if key.endswith(old)), key)


def _kept(key: str, prefix: str) -> str | None:
    return key


def _with(key: str, prefix: str) -> str | None:
    return prefix + key


def _without(key: str, prefix: str) -> str | None:
    """None for what is beside the bare model: a head."""
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def _toggled(key: str, prefix: str) -> str:
    return key.removeprefix(prefix) if key.startswith(prefix) else prefix + key


@lru_cache(maxsize=64)
def _layout(text: str) -> Layout:
    return Layout(text)
