"""Layers whose weight a module around them takes, and doesn't call them: what wraps such a layer, as PEFT does, has no
effect there, or not all the effect that the weight has.

No forward can be run without weights and inputs, so each module's source is followed (`following`): what of its
children it calls, and whose weight it reads, in each way through it. Being asked for a dtype or a shape is no reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from .build import kind_of
from .effects import CALLED, TAKEN
from .following import Follower, methods_of
from .settings import entries_of
from .source import hands_over, reads_weights

#: So many settings together are tried for what keeps a layer from being taken.
_MOST = 2

#: Words in the names of methods that no forward calls: they make values, or change sizes.
_NO_FORWARD = {"init", "initialize", "resize", "reset", "tie", "set", "prune"}


def taken_in(model: Any) -> set[str]:
    """Names of the modules that PEFT could wrap without all the effect that their weights have.

    Taken is a weight that a module reads besides calling the module that has it, in any way through it, or that it
    reads where its parameters have their defaults. A way that takes other arguments, such as to interpolate positions,
    and reads the weight where the usual one calls the module, doesn't count.
    """
    names = _layers(model)
    return {names[one] for module in _taking(model) for one in _taken_by(module)[0] if one in names}


def whole_where(model: Any, config: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Names of modules that aren't taken as the model is, and are with other settings, to what keeps them so: entries
    of the configuration, of which each group suffices by itself. Without any, nothing is known to."""
    names = _layers(model)
    found: dict[str, list[list[str]]] = {}
    for module in _taking(model):
        whatever, asked = _taken_by(module, ())
        open_ = whatever - _taken_by(module)[0]
        if not open_ & names.keys():
            continue
        entries = {setting: entries_of(setting, owner, config) for setting, owner in asked.items()}
        fixed = [setting for setting, its in entries.items() if its == []]
        free = [setting for setting, its in entries.items() if its]
        for one in open_ & names.keys():
            groups = [
                [path for setting in group for path in entries[setting] or ()]
                for group in _sufficient(module, one, fixed, free)
            ]
            others = found.get(names[one], [[]])  # of another module that may take it: neither may
            found[names[one]] = [list(dict.fromkeys([*those, *these])) for those in others for these in groups]
    return found


def _sufficient(module: Any, one: int, fixed: list[str], free: list[str]) -> Iterator[tuple[str, ...]]:
    """The smallest groups of settings with whose values a layer isn't taken, whatever the others are."""
    found: list[set[str]] = []
    for size in range(_MOST + 1):
        for group in itertools.combinations(free, size):
            if not any(less <= {*group} for less in found) and one not in _taken_by(module, {*fixed, *group})[0]:
                found.append({*group})
                yield group


def _layers(model: Any) -> dict[int, str]:
    return {id(module): name for name, module in model.named_modules() if kind_of(module)}


def _taking(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if kind_of(module) is None and _may_take(module))


def _may_take(module: Any) -> bool:
    """Whether a module's class reads weights of others, or hands over a layer that others could read."""
    own = methods_of(module)
    if any(reads_weights(method) for method in own.values()):
        return True
    paths = {path for method in own.values() for path in hands_over(method)}
    return any(kind_of(one) for path in paths for one in modules_at(module, path))


def _taken_by(module: Any, decided: Collection[str] | None = None) -> tuple[set[int], dict[str, Any]]:
    """Ids of the layers that one module takes the weights of, and the settings that were asked for; with other values
    than those of `decided`, where these are given."""
    any_way = Follower(module, decided=decided)
    usual = Follower(module, usual=True, decided=decided)
    outcomes = _outcomes(any_way)
    found = {one for one, its in outcomes.items() if CALLED | TAKEN in its or (TAKEN in its and CALLED not in its)}
    if any(TAKEN in its for its in outcomes.values()):
        usual.reached |= any_way.reached - {"forward"}  # which are no ways of their own
        found |= {one for one, its in _outcomes(usual).items() if TAKEN in its}
    return found, any_way.asked | usual.asked


def _outcomes(follower: Follower) -> dict[int, set[int]]:
    """What may become of each layer, by its id: in forward, or in a method that it doesn't reach, and others call."""
    found: dict[int, set[int]] = {}
    own = methods_of(follower.root)
    for name in ("forward", *own):
        if name in own and name not in follower.reached and not _NO_FORWARD & {*name.split("_")}:
            for path, its in follower.follow(own[name], name).items():
                for one in modules_at(follower.root, path):
                    found.setdefault(id(one), set()).update(its)
    return found


def modules_at(root: Any, path: str) -> Iterable[Any]:
    """The modules at a path below another, where `*` is any of a list's."""
    found = [root]
    for part in path.split(".") if path else ():
        found = [below for one in found for below in _below(one, part)]
    return found


def _below(module: Any, part: str) -> Iterable[Any]:
    children = getattr(module, "_modules", {})
    if part == "*":
        return [one for one in children.values() if one is not None]
    one = children.get(part)
    return [] if one is None else [one]
