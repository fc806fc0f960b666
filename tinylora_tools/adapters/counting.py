"""How PEFT counts an adapter's modules, when it is the model's only one, and when it was added to another.

An adapter's modules are numbered in the order of named_modules(); groups follow from the number, the seeds of P from
the number that a layer had when it was wrapped. In a model that has an adapter already three things are otherwise:

- layers that the first adapter wrapped keep its numbers for the seeds (but under PEFT 0.19.0 and 0.19.1);
- an expression that matches `...q_proj.base_layer` too counts a wrapped layer twice, itself and what it wraps, though
  it is adapted once: all behind it move up;
- until PEFT 0.20 the first adapter's numbers served the second one too, until it met a module that the first lacked.

Source: peft/tuners/tinylora/model.py, `_build_target_key_mapping` and `_create_and_replace`, and `inject_adapter` in
peft/tuners/tuners_utils.py, of PEFT 0.19.1, 0.20.0 and 0.21.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..core.tying import group_of

#: How many ways to have been added to another adapter are followed up at most.
_MOST_WAYS = 1000

#: Whether an adapter's expression matches what a layer of this name wraps, besides the layer.
MatchesInside = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Counted:
    """Each module's place, from which its seed follows, and its group."""

    place: Mapping[str, int]
    group: Mapping[str, int]


def alone(names: Sequence[str], tying: float) -> Counted:
    """Modules, in the model's order, of the only adapter, or of the first one."""
    return added(names, tying, first=(), inside=lambda name: False)


def added(
    names: Sequence[str],
    tying: float,
    *,
    first: Sequence[str],
    inside: MatchesInside,
    stale: bool = False,
    anew: bool = False,
) -> Counted:
    """Modules of an adapter that was added to another, whose targets are `first`; both in the model's order.

    Parameters
    ----------
    names, first : sequence of str
    tying : float
        The adapter's weight_tying.
    inside : callable
        See `MatchesInside`.
    stale : bool
        Whether the release numbers by the first adapter as long as it can (until PEFT 0.20).
    anew : bool
        Whether it gives the numbers to the seeds of wrapped layers too (PEFT 0.19.0 and 0.19.1).
    """
    numbers_of_first = {name: number for number, name in enumerate(first)}
    numbers, total = (numbers_of_first, len(first)) if stale else _numbered(names, set(first), inside)
    place, group, wrapped = {}, {}, set(first)
    for name in names:
        if name not in numbers:
            numbers, total = _numbered(names, wrapped, inside)
        place[name] = numbers[name] if anew else numbers_of_first.get(name, numbers[name])
        group[name] = group_of(numbers[name], total, tying)
        wrapped.add(name)
    return Counted(place, group)


def _numbered(names: Sequence[str], wrapped: Collection[str], inside: MatchesInside) -> tuple[dict[str, int], int]:
    """Each module's number, and how many were counted."""
    numbers, total = {}, 0
    for name in names:
        numbers[name] = total
        total += 2 if name in wrapped and inside(name) else 1
    return numbers, total


def ways_to_add(
    names: Sequence[str], tying: float, *, offsets: Mapping[str, Collection[int]], inside: MatchesInside
) -> list[Counted] | None:
    """How an adapter can have been added to another one that isn't known, so that its stored P have these seeds.

    Each module was either wrapped by the first adapter, whose numbers grow in the model's order, or it wasn't, and then
    has its own number. None where there are too many ways to follow up; empty where there is none.
    """
    ways: dict[tuple[int, ...], int] = {(0,): -1}  # numbers, and the next one; the first adapter's last number
    for name in names:
        known = offsets.get(name, ())
        longer: dict[tuple[int, ...], int] = {}
        for numbers, last in ways.items():
            of_first = min((one for one in known if one > last), default=None) if known else last
            unwrapped = not known or numbers[-1] in known
            for possible, step, then in (
                (unwrapped, 1, last),
                (of_first is not None, 1 + inside(name), last if of_first is None else of_first),
            ):
                if possible:
                    way = (*numbers, numbers[-1] + step)
                    longer[way] = min(then, longer.get(way, then))
        if len(longer) > _MOST_WAYS:
            return None
        ways = longer
    found = []
    for way in ways:
        numbers, total = way[:-1], way[-1]
        place = {name: next(iter(offsets.get(name, ())), number) for name, number in zip(names, numbers, strict=True)}
        group = {name: group_of(number, total, tying) for name, number in zip(names, numbers, strict=True)}
        found.append(Counted(place, group))
    return found
