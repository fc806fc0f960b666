"""Each module's place among the targeted modules, and its group: what no file of an adapter says outright.

Both follow from the order of the modules in the model (`order`) and from how PEFT counts them (`counting`), which
depends on whether another adapter was in the model before. The groups whose vectors are in the file, and the seeds of
the stored P, tell the right way among those that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bases.architectures.architecture import Architecture
from ..bases.base import Base
from ..core.tying import group_count
from ..errors import MismatchError, TinyLoraError
from ..formats.peft.adapter import PeftAdapter
from ..formats.peft.release import numbers_by_first
from ..wording import argument
from .counting import Counted, added, alone, ways_to_add
from .order import FirstAdapter, contradicts, find_order, first_adapter_hint, matches_inside, order_of_first
from .provenance import Provenance


@dataclass(frozen=True, slots=True)
class Numbering:
    """Places and groups of an adapter's modules; None where they can't be known.

    Attributes
    ----------
    index, group : dict[str, int], optional
        The place that a module's seed follows, its own or that of an adapter which was there first; its group.
    source : str
        "given", "architecture", "stored P", "one group" or "unknown".
    order : list of str, optional
        The modules in the model's order.
    doubts : tuple of TinyLoraError
        Why places or groups are unknown, or what speaks against them: errors to whoever depends on them.
    notes : tuple of str
    """

    index: dict[str, int] | None
    group: dict[str, int] | None
    source: str
    order: list[str] | None = None
    doubts: tuple[TinyLoraError, ...] = ()
    notes: tuple[str, ...] = ()


def number_modules(
    adapter: PeftAdapter,
    found: Provenance,
    *,
    architecture: Architecture | None = None,
    module_order: Sequence[str] | None = None,
    first_adapter: FirstAdapter | None = None,
    base: Base | None = None,
) -> Numbering:
    """Places and groups of the adapter's modules.

    `module_order` may name any modules of the model, in its order; those that the adapter targets count.
    `first_adapter` are the targets of the one that was in the model before; None where nobody says. `base` is what was
    asked for the architecture, where something was.

    Raises
    ------
    MismatchError
        If what is given contradicts what is known.
    """
    order = find_order(adapter, found, architecture, module_order, first_adapter, base)
    keys = set(adapter.vectors)
    if order.names is None:
        one = len(keys) == 1 and _may_be_one_group(adapter, len(adapter.modules))
        group = dict.fromkeys(adapter.modules, next(iter(keys))) if one else None
        doubts = [*order.doubts, *([_too_few_vectors(adapter)] if len(keys) == 1 and not one else [])]
        return Numbering(None, group, "one group" if one else order.source, None, tuple(doubts), tuple(order.notes))
    first = None
    if first_adapter is not None:
        first = order_of_first(first_adapter, adapter, architecture, module_order, base)
    ways = _ways(adapter, found, architecture, order.names, first)
    group, doubt = _settle(adapter, ways)
    if doubt is not None and len(keys) == 1 and _may_be_one_group(adapter, len(order.names)):
        group, doubt = dict.fromkeys(order.names, next(iter(keys))), None
    index = dict(_own(adapter, order.names).place if first is None or not ways else ways[0].place)
    if first is not None and (odd := contradicts(index, found)) is not None:
        raise MismatchError(
            f"{argument('first_adapter')} makes the seed of {odd} that of place {index[odd]}, its stored P says "
            f"{found.offsets[odd][0]}",
            where=adapter.file.path,
            hint=f"Leave {argument('first_adapter')} out, or name the adapter that was in the model before.",
        )
    doubts = [*order.doubts, doubt] if doubt else order.doubts
    return Numbering(index, group, order.source, order.names, tuple(doubts), tuple(order.notes))


def _own(adapter: PeftAdapter, names: Sequence[str]) -> Counted:
    return alone(names, adapter.config.weight_tying)


def _ways(
    adapter: PeftAdapter,
    found: Provenance,
    architecture: Architecture | None,
    names: Sequence[str],
    first: Sequence[str] | None,
) -> list[Counted] | None:
    """How PEFT may have counted the modules; None where too much is possible."""
    tying, own, inside = adapter.config.weight_tying, _own(adapter, names), matches_inside(adapter)

    def behind(first: Sequence[str]) -> list[Counted]:
        stale = numbers_by_first(adapter.config.peft_version or "")
        return [
            added(names, tying, first=first, inside=inside, stale=one, anew=adapter.seeding == "salted")
            for one in ((True, False) if stale is None and adapter.has_config else (bool(stale),))
        ]

    if first is not None:
        return behind(first) if first else [own]
    if adapter.leaked and architecture is not None:
        # PEFT 0.19 saved the factors of both along. Whether the adapter at hand was the first is told by its P: one for
        # all modules, or (added to wrapped layers) one for each.
        others = [] if found.shared else [architecture.sort_modules(modules) for modules in adapter.leaked.values()]
        return [one for other in others for one in behind(other)] or [own]
    if found.shared or not found.offsets or numbers_by_first(adapter.config.peft_version or ""):
        return [own]  # and where nothing shows what was before it, no other
    fits = contradicts(own.place, found) is None
    if fits and (set(own.group.values()) == set(adapter.vectors) or not any(map(inside, names))):
        return [own]
    ways = ways_to_add(names, tying, offsets=found.offsets, inside=inside)
    return ways if ways != [] or any(map(inside, names)) else [own]


def _settle(adapter: PeftAdapter, ways: Sequence[Counted] | None) -> tuple[dict[str, int] | None, TinyLoraError | None]:
    """The groups by the ways that make exactly those whose vectors are in the file."""
    keys = set(adapter.vectors)
    fitting = [way.group for way in ways or () if set(way.group.values()) == keys]
    if fitting and all(group == fitting[0] for group in fitting):
        return dict(fitting[0]), None
    what = (
        "the groups fit several numberings, each of another adapter that was in the model"
        if fitting
        else (
            f"{len(adapter.modules)} modules with weight_tying {adapter.config.weight_tying:g} don't make the groups "
            f"{_ranges(sorted(keys))} that the file holds vectors for"
        )
    )
    hint = "Was the config edited, or was this adapter added to a model that had another one? " + first_adapter_hint()
    return None, MismatchError(what, where=adapter.file.path, hint=hint)


def _too_few_vectors(adapter: PeftAdapter) -> MismatchError:
    count, tying = group_count(len(adapter.modules), adapter.config.weight_tying), adapter.config.weight_tying
    return MismatchError(
        f"the file holds one trained vector, but {len(adapter.modules)} modules with weight_tying {tying:g} make "
        f"{count} groups",
        where=adapter.file.path,
        hint="Was the config edited? Put the adapter_config.json that was saved with it beside the file.",
    )


def _may_be_one_group(adapter: PeftAdapter, modules: int) -> bool:
    """Whether one vector for all modules is what the configuration makes; where the first adapter of a model numbers
    the others too, its modules may have made it, which then nothing tells."""
    if numbers_by_first(adapter.config.peft_version or "") or adapter.leaked:
        return True
    return group_count(modules, adapter.config.weight_tying) == 1


def _ranges(numbers: list[int]) -> str:
    if numbers and numbers == list(range(len(numbers))):
        return f"0 to {len(numbers) - 1}" if len(numbers) > 1 else "0"
    shown = ", ".join(map(str, numbers[:8])) or "none"
    return shown + (", ..." if len(numbers) > 8 else "")
