"""What is wrong with an adapter, and what a person should know of it: said here, and shown by every command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..bases.architectures.families import PLAIN, said_plain
from ..bases.architectures.hints import plain_hint
from ..bases.orientation import untransposed
from ..bases.tensor_names import BaseNames, not_known
from ..errors import MismatchError, UndeterminedError
from ..formats.digests import check_recorded
from ..formats.packed import Packed
from ..formats.peft.adapter import PeftAdapter
from ..formats.peft.release import Seeding, saves_biases
from ..wording import argument, call
from .completeness import incomplete
from .provenance import regime, straddles

if TYPE_CHECKING:
    from .load import Adapter

_NOTHING = "every trained vector is zero: the adapter changes nothing"
_NO_VECTORS = "no trained vector (tinylora_v) is in the file"
_LEFT_OUT = (
    "PEFT leaves vectors out when it is given the state dict of a model that DistributedDataParallel wraps, and that "
    "of group 0 beside an adapter that is called '0'. Save the adapter again from the process that trained it, from "
    "the model inside."
)
_EDITED = "Was the file or its adapter_config.json edited? Save the adapter again."


def check(adapter: Adapter) -> None:
    """Raise MismatchError where an adapter contradicts itself, or its vectors aren't finite."""
    found = problems(adapter)
    if found:
        more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
        raise MismatchError(found[0].what + more, where=adapter.header.file.path, hint=found[0].hint)


def check_layers(adapter: Adapter) -> None:
    """Raise UndeterminedError where nobody knows what the model does with the modules' weights, and the user doesn't
    say that it does what most models do: for who makes weights, or factors, that stand for the update."""
    if adapter.architecture is None and adapter.modules and not said_plain():
        raise UndeterminedError(
            _unknown_layers(adapter), where=adapter.path, hint=plain_hint(at_hand=adapter.base is not None)
        )


def check_factors(adapter: Adapter) -> None:
    """Raise FormatError where an A or a B isn't as its file recorded it: for who doesn't read them anyway."""
    modules = adapter.modules.values()
    check_recorded(adapter.header.file, (info.name for parts in modules for info in (parts.A, parts.B)))


def problems(adapter: Adapter) -> list[MismatchError]:
    """What is wrong: an adapter with any of it isn't applied, converted or drawn for."""
    found = [
        MismatchError(what, hint=_LEFT_OUT if what == _NO_VECTORS else _EDITED)
        for what in _contradictions(adapter.header)
    ]
    lacking = incomplete(adapter)
    return [*([lacking] if lacking else []), *found] or _untransposed(adapter) or _broken_vectors(adapter)


def with_seeding(header: PeftAdapter, seeding: Seeding) -> PeftAdapter:
    """An adapter with what its user says of its seeds; MismatchError where its release says otherwise."""
    version, known = header.config.peft_version, replace(header, said_seeding=None).seeding
    if known not in (None, seeding):
        raise MismatchError(
            f"{argument('seeding', seeding)} is said of it, but PEFT {version} draws P otherwise: by {known}",
            where=header.file.path,
            hint=f"Leave {argument('seeding')} out: it is for the development version that straddles the change.",
        )
    return replace(header, said_seeding=seeding)


def notes(adapter: Adapter) -> list[str]:
    """What to know of an adapter that can be used."""
    header = adapter.header
    found = list(adapter.imported)
    if not header.has_config:
        found.append("no adapter_config.json beside the file: its seed, weight tying and PEFT version aren't known")
    return [*found, *adapter.numbering.notes, *_on_projections(adapter), *_on_leaked(header), *_on_training(adapter)]


def doubts(adapter: Adapter) -> list[str]:
    """Why places or groups of modules aren't known, with the way out: errors to whoever needs them."""
    return [f"{one.what}. {one.hint}" if one.hint else one.what for one in adapter.numbering.doubts]


def described(adapter: Adapter) -> list[str]:
    """All of it, for who describes an adapter and refuses none."""
    return [*(problem.what for problem in problems(adapter)), *doubts(adapter), *adapter.notes]


def _contradictions(adapter: PeftAdapter) -> list[str]:
    """What in the adapter's tensors contradicts its configuration, or itself."""
    found = [f"{key}: no PEFT release writes this key" for key in adapter.unknown]
    if not adapter.modules:
        found.append("no module has factors")
    if not adapter.vectors:
        found.append(_NO_VECTORS)
    r, u = adapter.config.r, adapter.config.u
    said_by = "adapter_config.json says" if adapter.has_config else "the vectors say"
    found += [
        f"tinylora_v.{group}: shape {info.shape}, expected ({u},): {said_by} u={u}"
        for group, info in adapter.vectors.items()
        if info.shape != (u,)
    ]
    for module, parts in adapter.modules.items():
        if parts.P is not None and parts.P.shape[0] != u:
            found.append(f"{module}: P is {parts.P.shape}, but {said_by} u={u}")
        rank = min(r, parts.out_features, parts.in_features)
        if adapter.has_config and parts.rank != rank:
            found.append(
                f"{module}: A has rank {parts.rank}, but adapter_config.json says r={r}"
                f" and the weight is ({parts.out_features}, {parts.in_features}): expected {rank}"
            )
    if adapter.has_config and len(adapter.vectors) > len(adapter.modules):
        found.append(f"{len(adapter.vectors)} trained vectors for {len(adapter.modules)} modules")
    return found


def _untransposed(adapter: Adapter) -> list[MismatchError]:
    """Factors that PEFT made of a Conv1D's weight as it is stored, and can't compute with itself."""
    base, architecture = adapter.base, adapter.architecture
    kinds = [architecture.kind(name) for name in adapter.modules] if architecture else []
    if base is None or "Conv1D" not in kinds or not base.has_weights:
        return []
    names = BaseNames(base.checkpoint, architecture)
    return [
        MismatchError(
            f"{name}: its factors are for a weight of shape ({parts.out_features}, {parts.in_features}), but the "
            "layer, a Conv1D, has the transpose: PEFT makes such factors for an adapter that is added to a layer which "
            "another one wraps, and its own forward pass fails with them",
            hint="Train the adapter alone, or with fan_in_fan_out=True in its configuration.",
        )
        for name, parts in adapter.modules.items()
        if untransposed(names, name, (parts.out_features, parts.in_features))
    ]


def _broken_vectors(adapter: Adapter) -> list[MismatchError]:
    vectors = {group: adapter.vector(group).astype(np.float64) for group in adapter.header.vectors}
    broken = [group for group, v in vectors.items() if not np.all(np.isfinite(v))]
    return [
        MismatchError(
            f"the trained vector of group {group} holds NaN or Inf: the training diverged",
            hint="Use an earlier checkpoint of the adapter.",
        )
        for group in broken
    ]


def _on_projections(adapter: Adapter) -> list[str]:
    header = adapter.header
    if header.modules and not header.has_projections:
        if header.seeding is None and header.config.peft_version is not None:
            which = f"{argument('seeding', 'index')} or {argument('seeding', 'salted')}"
            return [f"{straddles(header.config.peft_version)}: say {which}"]
        if header.seeding == "salted":
            return [
                "P isn't stored, and PEFT 0.19 drew it from a salted hash, which nobody can reproduce. Save it with "
                "save_projection=True from the process that trained it, or find its seed in what it was merged into: "
                f"{call('verify_seed', adapter.path, against=..., base=...)}"
            ]
        return [_drawn_by(adapter.stream)]
    if regime(header, adapter.provenance) == "shared-projection":
        return [
            "all modules share one P, drawn by PEFT 0.19 from a seed that is lost: keep the stored P, and load the "
            "adapter with save_projection=True"
        ]
    return []


def _drawn_by(stream: str) -> str:
    return (
        f"P isn't stored: it is drawn from projection_seed, here as {stream} draws it, with values that may differ "
        "between machines by rounding"
    )


def notes_on_packed(packed: Packed) -> list[str]:
    """What to know of a packed adapter that only its own file tells."""
    drawn = not packed.holds_projections and packed.numbers("P_of") is None
    zero = not any(np.any(v) for v in packed.vectors.values())
    return ([_drawn_by(packed.stream)] if drawn else []) + ([_NOTHING] if zero else [])


def _on_leaked(adapter: PeftAdapter) -> list[str]:
    if not adapter.leaked:
        return []
    return [
        f"the file also holds factors of {', '.join(sorted(adapter.leaked))}, another adapter that PEFT 0.19 saved "
        "along; they aren't part of this one"
    ]


def _on_training(adapter: Adapter) -> list[str]:
    """Biases that were trained and not saved (PEFT saves them from 0.21 on), and vectors that add nothing."""
    config, found = adapter.config, []
    saved = any(
        name.endswith(".bias") and replacement.in_place for name, replacement in adapter.header.replaced.items()
    )
    version = config.peft_version
    if config.bias != "none" and not saved and version is not None and not saves_biases(version):
        known = saves_biases(version) is False
        found.append(
            f"trained with bias={config.bias!r}, but no bias was saved (PEFT {version} doesn't): what was learnt there "
            "is lost"
            if known
            else f"trained with bias={config.bias!r}, and the file holds none: PEFT {version} saves biases from "
            "peft#3490 of 13 August 2026 on, and its commit isn't known. If the model has any, what they learnt is lost"
        )
    groups = adapter.header.vectors
    if groups and not any(np.any(adapter.vector(group)) for group in groups):
        found.append(_NOTHING)
    return found


def notes_of(adapters: Sequence[Adapter]) -> list[str]:
    """The notes on several adapters whose updates go into weights, with their names where there is more than one; with
    their paths, where those are alike."""
    notes = [(one, note) for one in adapters for note in (*_taken_for_plain(one), *one.notes)]
    if len(adapters) == 1:
        return [note for _, note in notes]
    unique = len({one.path.name for one in adapters}) == len(adapters)
    return [f"{one.path.name if unique else one.path}: {note}" for one, note in notes]


def _taken_for_plain(adapter: Adapter) -> list[str]:
    """What is taken for granted of modules of an architecture that isn't known, where the user says so."""
    if adapter.architecture is not None or not adapter.modules or not said_plain():
        return []
    return [f"{_unknown_layers(adapter)}. It is taken for granted, as {call('described_by', architecture=PLAIN)} says"]


def _unknown_layers(adapter: Adapter) -> str:
    base, number = adapter.base, len(adapter.modules)
    modules = "its module is a layer" if number == 1 else f"its {number} modules are layers"
    weights = "weight" if number == 1 else "weights"
    return (
        f"{not_known((base.config if base else None) or {})}, and with it whether {modules} that the model calls, and "
        f"whose {weights} it uses for nothing else"
    )
