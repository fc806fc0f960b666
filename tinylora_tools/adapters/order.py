"""The order of an adapter's modules in its model, which is in none of its files.

It comes, in this sequence, from a list that the user gives, from the architecture, or from the seeds of the stored P.
Where one of the others contradicts the list, it is refused: a checkpoint's keys, which are easily taken for it, stand
in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bases.architectures.architecture import Architecture
from ..bases.architectures.hints import order_hint, own_code, way_out
from ..bases.base import Base
from ..bases.listing import ANEW, HOW_TO_LIST, alphabetical, differ, read_module_order, refuse_impossible
from ..errors import MismatchError, TinyLoraError, UndeterminedError
from ..formats.peft.adapter import WEIGHTS_NAMES, PeftAdapter, read_adapter
from ..formats.peft.release import numbers_by_first
from ..sources.locate import locate
from ..wording import argument
from .counting import MatchesInside, ways_to_add
from .provenance import Provenance


@dataclass(frozen=True, slots=True)
class Order:
    """The adapter's modules in named_modules() order; None where it isn't known.

    `source` is "given", "architecture", "stored P" or "unknown"; `doubts` say why it isn't known, `notes` what a person
    should know of it.
    """

    names: list[str] | None
    source: str
    doubts: list[TinyLoraError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FirstAdapter:
    """The targets of an adapter that was in the model before: none where it was the adapter itself. `ordered` says
    whether they stand in the order of named_modules()."""

    names: tuple[str, ...]
    ordered: bool


def first_in(first: str | Path | Sequence[str] | FirstAdapter | None, adapter: PeftAdapter) -> FirstAdapter | None:
    """The targets of the first adapter: by its path, by a file that lists them, or by their names."""
    if first is None or isinstance(first, FirstAdapter):
        return first
    if not isinstance(first, (str, Path)):
        return FirstAdapter(tuple(first), ordered=True)
    at = locate(first)
    if not at.is_dir() and at.suffix not in (".safetensors", ".bin"):
        return FirstAdapter(tuple(read_module_order(at)), ordered=True)
    other = read_adapter(at)
    itself = other.file.path.resolve() == adapter.file.path.resolve()
    return FirstAdapter(() if itself else tuple(other.modules), ordered=False)


def ways_out(base: Base | None) -> str:
    """What to do where the architecture isn't known."""
    if base is None:
        first = f"Name the base model with {argument('base')}, so that its config.json tells the architecture, or give"
    elif base.config is None:
        first = "Put the model's own config.json beside its weights, or give"
    else:
        first = f"{way_out()} Or give"
    return (
        f"{first} the modules with {argument('module_order', ...)}, all of them or the targeted ones, in the order of "
        f"model.named_modules(), one name a line: {HOW_TO_LIST}."
    )


def first_adapter_hint() -> str:
    """How to say which adapter was in the model before."""
    return (
        f"Say with {argument('first_adapter', ...)} which one was in the model first: that adapter's directory (this "
        "one's, if it was), or a file with its targeted modules in the order of model.named_modules(), one name a line."
    )


def find_order(
    adapter: PeftAdapter,
    found: Provenance,
    architecture: Architecture | None,
    module_order: Sequence[str] | None,
    first: FirstAdapter | None,
    base: Base | None = None,
) -> Order:
    """The order of the adapter's modules, by what is known of it; raises MismatchError for a list that is wrong."""
    if module_order is None and architecture is None and first is not None and first.ordered:
        module_order = first.names if set(adapter.modules) <= set(first.names) else None
    if module_order is not None:
        return _given_order(adapter, found, architecture, list(module_order))
    if first is None and not adapter.has_projections and (other := _other_targets(adapter)) is not None:
        what = (
            f"P isn't stored, and {other} beside it holds an adapter with other targets: whichever was first in the "
            "model, the other's P follow its order"
        )
        doubt = UndeterminedError(what, where=adapter.file.path, hint=first_adapter_hint())
        return Order(None, "unknown", [doubt])
    by_seed = found.order
    if architecture is None and by_seed is not None:
        return Order(by_seed, "stored P")
    if architecture is None:
        what = "the seeds of the stored P don't tell it" if adapter.has_projections else "P isn't stored"
        unknown = "no architecture is known" if base is None else f"of the base {base.path}: {base.unknown}"
        what = f"the order of the modules is in no file: {what}, and {unknown}"
        return Order(None, "unknown", [UndeterminedError(what, where=adapter.file.path, hint=ways_out(base))])
    try:
        names = architecture.sort_modules(adapter.modules)
    except UndeterminedError as error:
        if by_seed is not None:
            return Order(by_seed, "stored P", notes=[str(error)])
        return Order(None, "unknown", [error])
    if by_seed is not None and by_seed != names:
        conflict = UndeterminedError(
            differ("the stored P say", by_seed, f"the architecture {architecture.model_type} says", names),
            where=adapter.file.path,
            hint=f"Say which order is right with {argument('module_order', ...)} (one module name a line).",
        )
        return Order(None, "unknown", [conflict])
    if by_seed is None and architecture.doubtful:
        doubt = UndeterminedError(own_code(architecture.model_type), where=adapter.file.path, hint=order_hint())
        return Order(None, "unknown", [doubt])
    return Order(names, "architecture")


def order_of_first(
    first: FirstAdapter,
    adapter: PeftAdapter,
    architecture: Architecture | None,
    module_order: Sequence[str] | None,
    base: Base | None = None,
) -> list[str]:
    """The first adapter's modules in the model's order.

    Raises
    ------
    UndeterminedError
        If nothing tells it.
    """
    names = list(first.names)
    if module_order is not None and set(names) <= set(module_order):
        return [name for name in module_order if name in set(names)]
    try:
        if architecture is not None:
            return architecture.sort_modules(names)
    except UndeterminedError:
        if not first.ordered:
            raise
    if not first.ordered:
        raise UndeterminedError(
            f"the order of the modules of {argument('first_adapter')} is in no file",
            where=adapter.file.path,
            hint=ways_out(base),
        )
    refuse_impossible(names, "first_adapter", adapter.file.path)
    return names


def _given_order(
    adapter: PeftAdapter, found: Provenance, architecture: Architecture | None, listed: list[str]
) -> Order:
    """The targeted modules of a list that may name others too."""
    absent = sorted(set(adapter.modules) - set(listed))
    if absent:
        raise MismatchError(
            f"{argument('module_order')} doesn't name {absent[0]}, which the adapter targets",
            where=adapter.file.path,
            hint=f"List every targeted module, in the order of model.named_modules(): {HOW_TO_LIST}.",
        )
    refuse_impossible(listed, "module_order", adapter.file.path)
    names = [name for name in listed if name in adapter.modules]
    by_seed, known = found.order, _known_order(adapter, architecture)
    if by_seed == names or known == names:
        told = by_seed is not None and by_seed != names
        note = f"the seeds of the stored P tell another order than {argument('module_order')}, which is followed"
        return Order(names, "given", notes=[note] if told else [])
    if by_seed is not None or known is not None:
        says = "the stored P say" if by_seed is not None else f"transformers' {_type(architecture)} says"
        raise MismatchError(
            differ(says, by_seed or known or [], f"{argument('module_order')} says", names),
            where=adapter.file.path,
            hint=f"Leave {argument('module_order')} out: the order is known. {_own_code(architecture, by_seed)}{ANEW}",
        )
    if not adapter.leaked and not numbers_by_first(adapter.config.peft_version or ""):
        ways = ways_to_add(names, 0.0, offsets=found.offsets, inside=matches_inside(adapter))
        if ways == []:
            raise MismatchError(
                f"in the order of {argument('module_order')} no adapter's P have the seeds of the stored ones",
                where=adapter.file.path,
                hint=ANEW,
            )
    return Order(names, "given", notes=alphabetical(names))


def matches_inside(adapter: PeftAdapter) -> MatchesInside:
    """Whether the adapter's expression matches what a wrapped layer holds too."""
    return lambda name: adapter.config.matches(f"{name}.base_layer")


def _own_code(architecture: Architecture | None, by_seed: Sequence[str] | None) -> str:
    if architecture is None or by_seed is not None:
        return ""
    return (
        f"If the model's code isn't transformers' {architecture.model_type}, name a copy of the base whose config.json "
        "says another model_type. "
    )


def _type(architecture: Architecture | None) -> str:
    return architecture.model_type if architecture else ""


def _known_order(adapter: PeftAdapter, architecture: Architecture | None) -> list[str] | None:
    try:
        return architecture.sort_modules(adapter.modules) if architecture else None
    except UndeterminedError:
        return None


def _other_targets(adapter: PeftAdapter) -> Path | None:
    """The adapter in the directory above, where PEFT puts a model's "default" one, if it has other targets."""
    above = adapter.directory.absolute().parent
    if adapter.file.path.name not in WEIGHTS_NAMES or not any((above / name).is_file() for name in WEIGHTS_NAMES):
        return None
    try:
        modules = read_adapter(above).modules
    except TinyLoraError:
        return None
    return None if modules.keys() == adapter.modules.keys() else above


def contradicts(places: Mapping[str, int], found: Provenance) -> str | None:
    """A module whose stored P has another seed than its place tells; None where there is none."""
    return next(
        (name for name, place in places.items() if (known := found.offsets.get(name)) and place not in known), None
    )
