"""Layers whose weight a module around them takes, and doesn't call them: what wraps such a layer, as PEFT does, has no
effect there, or not all the effect that the weight has.

No forward can be run without weights and inputs, so each module's source is followed (`following`): what of its
children it calls, and whose weight it reads, in each way through it. Being asked for a dtype or a shape is no reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .build import kind_of
from .effects import CALLED, TAKEN, Effects
from .following import Follower, methods_of
from .source import hands_over, reads_weights

#: Parts of the names of methods that no forward calls: they make values, or change sizes.
_NO_FORWARD = ("init", "resize", "reset", "tie", "set_", "prune")


def taken_in(model: Any) -> set[str]:
    """Names of the modules that PEFT could wrap without all the effect that their weights have.

    Taken is a weight that a module reads in every way through it, or besides calling the module that has it. Where one
    way reads the weight and another calls the module, the call counts: the other is a fused kernel's mostly.
    """
    names = {id(module): name for name, module in model.named_modules() if kind_of(module)}
    found: set[str] = set()
    for module in model.modules():
        if kind_of(module) is None and _may_take(module):
            found.update(names[one] for one in _taken_by(module) if one in names)
    return found


def _may_take(module: Any) -> bool:
    """Whether a module's class reads weights of others, or hands over a layer that others could read."""
    own = methods_of(module)
    if any(reads_weights(method) for method in own.values()):
        return True
    paths = {path for method in own.values() for path in hands_over(method)}
    return any(kind_of(one) for path in paths for one in modules_at(module, path))


def _taken_by(module: Any) -> Iterator[int]:
    """Ids of the layers that one module takes the weights of."""
    outcomes: dict[int, set[int]] = {}
    for effects in _ways(module):
        for path, its in effects.items():
            for one in modules_at(module, path):
                outcomes.setdefault(id(one), set()).update(its)
    for one, its in outcomes.items():
        if CALLED | TAKEN in its or (TAKEN in its and CALLED not in its):
            yield one


def _ways(module: Any) -> Iterator[Effects]:
    """What forward does, and each method that it doesn't reach: others call those."""
    follower = Follower(module)
    own = methods_of(module)
    for name in ("forward", *own):
        if name in own and name not in follower.reached and not any(part in name for part in _NO_FORWARD):
            yield follower.follow(own[name], name)


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
