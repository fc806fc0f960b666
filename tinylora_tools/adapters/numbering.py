"""Each module's place among the targeted modules, and its group: what no file of an adapter says outright.

PEFT counts targeted modules in the order of `named_modules()`. That order comes, in this sequence, from a file that the
user gives, from the architecture, or from the seeds of the stored P. Groups follow from places, and the groups whose
vectors are in the file confirm them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bases.architecture import Architecture, order_hint
from ..core.tying import group_count, group_of
from ..errors import FormatError, MismatchError, TinyLoraError, UndeterminedError
from ..formats.peft_adapter import WEIGHTS_NAMES, PeftAdapter, read_adapter
from ..wording import argument
from .provenance import Provenance, seed_is_lost


@dataclass(frozen=True, slots=True)
class Numbering:
    """Places and groups of an adapter's modules; None where they can't be known.

    Attributes
    ----------
    index, group : dict[str, int], optional
    source : str
        "given", "architecture", "stored P", "one group" or "unknown".
    doubts : tuple of TinyLoraError
        Why places or groups are unknown, or what speaks against them: errors to whoever depends on them.
    notes : tuple of str
    """

    index: dict[str, int] | None
    group: dict[str, int] | None
    source: str
    doubts: tuple[TinyLoraError, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Order:
    names: list[str] | None
    source: str
    doubts: list[TinyLoraError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_module_order(path: Path) -> list[str]:
    """Module names from a file, one a line; empty lines and lines that start with `#` don't count."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise FormatError("not a text file", where=path, hint="Give one module name a line, in UTF-8.") from None
    names = [line.strip().removeprefix("base_model.model.") for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"names {twice[0]} twice", where=path, hint="Give each module once.")
    return names


def number_modules(
    adapter: PeftAdapter,
    found: Provenance,
    *,
    architecture: Architecture | None = None,
    module_order: Sequence[str] | None = None,
) -> Numbering:
    """Places and groups of the adapter's modules.

    `module_order` may name more modules than the adapter targets: seeds count places in it, as PEFT takes them from the
    first adapter of a model with several. Groups do so under PEFT 0.19 only.
    """
    order = _find_order(adapter, found, architecture, module_order)
    index = None
    if order.names is not None:
        index = {name: i for i, name in enumerate(order.names) if name in adapter.modules}
    group, doubt = _find_groups(adapter, found, architecture, order.names)
    source = "one group" if index is None and group is not None else order.source
    doubts = [*order.doubts, doubt] if doubt else order.doubts
    return Numbering(index, group, source, tuple(doubts), tuple(order.notes))


def ways_out() -> str:
    """What to do where the architecture isn't known."""
    return (
        f"Name the base model with {argument('base')}, so that its config.json tells the architecture, or give the "
        f"targeted modules with {argument('module_order', ...)}, in the order of model.named_modules(), one name a "
        "line."
    )


def _find_order(
    adapter: PeftAdapter, found: Provenance, architecture: Architecture | None, module_order: Sequence[str] | None
) -> _Order:
    by_seed = found.order
    if module_order is not None:
        return _given_order(adapter, by_seed, list(module_order))
    if not adapter.has_projections and (other := _other_targets(adapter)) is not None:
        what = (
            f"P isn't stored, and {other} beside it holds an adapter with other targets: whichever was first in the "
            "model, the other's P follow its order"
        )
        hint = order_hint("the targeted modules of the adapter that was first")
        return _Order(None, "unknown", [UndeterminedError(what, where=adapter.file.path, hint=hint)])
    if architecture is None and by_seed is not None:
        return _Order(by_seed, "stored P")
    if architecture is None:
        what = "the seeds of the stored P don't tell it" if adapter.has_projections else "P isn't stored"
        what = f"the order of the modules is in no file: {what}, and no architecture is known"
        return _Order(None, "unknown", [UndeterminedError(what, where=adapter.file.path, hint=ways_out())])
    try:
        names = architecture.sort_modules(adapter.modules)
    except UndeterminedError as error:
        if by_seed is not None:
            return _Order(by_seed, "stored P", notes=[str(error)])
        return _Order(None, "unknown", [error])
    if by_seed is not None and by_seed != names:
        place = next(i for i, (a, b) in enumerate(zip(names, by_seed, strict=True)) if a != b)
        conflict = UndeterminedError(
            f"the stored P say that module {place} is {by_seed[place]}, "
            f"the architecture {architecture.model_type} says {names[place]}",
            where=adapter.file.path,
            hint=f"Say which order is right with {argument('module_order', ...)} (one module name a line).",
        )
        return _Order(None, "unknown", [conflict])
    return _Order(names, "architecture")


def _given_order(adapter: PeftAdapter, by_seed: list[str] | None, names: list[str]) -> _Order:
    absent = sorted(set(adapter.modules) - set(names))
    if absent:
        raise MismatchError(
            f"{argument('module_order')} doesn't name {absent[0]}, which the adapter targets",
            where=adapter.file.path,
            hint="List every targeted module, in the order of model.named_modules().",
        )
    holders = sorted(name for name in names if any(o.startswith(f"{name}.") for o in names))
    holders = [name for name in holders if name not in adapter.modules]
    if holders:
        raise MismatchError(
            f"{argument('module_order')} names {holders[0]}, which holds others that it names and can't be a target",
            where=adapter.file.path,
            hint="List the targeted modules alone, not all of model.named_modules(): seeds follow their places.",
        )
    notes = []
    if by_seed is not None and by_seed != names:
        named = argument("module_order")
        notes.append(f"the seeds of the stored P tell another order than {named}, which is followed")
    if not adapter.has_projections and len(names) > len(adapter.modules):
        notes.append(
            f"{argument('module_order')} names {len(names) - len(adapter.modules)} modules that the adapter doesn't "
            "target: its P are drawn as if they were targets of an adapter that was in the model first"
        )
    return _Order(names, "given", notes=notes)


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


def _find_groups(
    adapter: PeftAdapter, found: Provenance, architecture: Architecture | None, names: list[str] | None
) -> tuple[dict[str, int] | None, TinyLoraError | None]:
    """Groups by PEFT's formula; those that produce exactly the groups in the file count."""
    keys = set(adapter.vectors)
    if len(keys) == 1 and _may_be_one_group(adapter, names):
        return dict.fromkeys(adapter.modules, next(iter(keys))), None
    if names is None:
        return None, _too_few_vectors(adapter) if len(keys) == 1 else None
    fitting = [
        groups for groups in _possible_groups(adapter, found, architecture, names) if set(groups.values()) == keys
    ]
    if fitting and all(groups == fitting[0] for groups in fitting):
        return fitting[0], None
    what = (
        f"{len(adapter.modules)} modules with weight_tying {adapter.config.weight_tying:g} don't make the groups "
        f"{_ranges(sorted(keys))} that the file holds vectors for"
        if not fitting
        else "the groups fit several numberings, each of another adapter that was saved along"
    )
    hint = "Was the config edited, or was this adapter added to a model that had another one? " + order_hint(
        "that one's targeted modules then"
    )
    return None, MismatchError(what, where=adapter.file.path, hint=hint)


def _too_few_vectors(adapter: PeftAdapter) -> MismatchError:
    count, tying = group_count(len(adapter.modules), adapter.config.weight_tying), adapter.config.weight_tying
    return MismatchError(
        f"the file holds one trained vector, but {len(adapter.modules)} modules with weight_tying {tying:g} make "
        f"{count} groups",
        where=adapter.file.path,
        hint="Was the config edited? Put the adapter_config.json that was saved with it beside the file.",
    )


def _may_be_one_group(adapter: PeftAdapter, names: list[str] | None) -> bool:
    """Whether one vector for all modules is what the configuration makes; PEFT 0.19 may have numbered groups by another
    adapter's modules, which then nothing tells."""
    if re.match(r"0\.1[89](\D|$)", adapter.config.peft_version or "") or adapter.leaked:
        return True
    return group_count(len(names or adapter.modules), adapter.config.weight_tying) == 1


def _possible_groups(
    adapter: PeftAdapter, found: Provenance, architecture: Architecture | None, names: list[str]
) -> list[dict[str, int]]:
    tying = adapter.config.weight_tying
    own_names = names if found.shared or seed_is_lost(adapter) else [n for n in names if n in adapter.modules]
    own = {name: group_of(i, len(own_names), tying) for i, name in enumerate(own_names) if name in adapter.modules}
    if not adapter.leaked or architecture is None or len(names) > len(adapter.modules):
        return [own]
    # PEFT 0.19 kept the first adapter's numbering until it met a module that this lacked. Whether the adapter at hand
    # was the first is told by its P: one for all modules, or (added to wrapped layers) one for each.
    possible = [own] if found.shared else []
    for modules in adapter.leaked.values():
        numbering, total = {name: i for i, name in enumerate(architecture.sort_modules(modules))}, len(modules)
        groups = {}
        for name in names:
            if name not in numbering:
                numbering, total = {other: i for i, other in enumerate(names)}, len(names)
            groups[name] = group_of(numbering[name], total, tying)
        if not found.shared:
            possible.append(groups)
    return possible or [own]


def _ranges(numbers: list[int]) -> str:
    if numbers == list(range(len(numbers))):
        return f"0 to {len(numbers) - 1}" if len(numbers) > 1 else "0"
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (", ..." if len(numbers) > 8 else "")
