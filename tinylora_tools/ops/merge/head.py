"""A classifier's head: an adapter that holds one makes a classifier of the base that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...adapters.head import Head, has_labels, head_of
from ...adapters.load import Adapter
from ...bases.architectures.architecture import Architecture
from ...bases.architectures.named import for_task
from ...bases.base import Base
from ...bases.refit import Refit, refit
from ...errors import MismatchError, TinyLoraError, UndeterminedError, UnsupportedError
from ...wording import argument
from .labels import label_config, pad_config
from .words import NewHead


@dataclass(frozen=True, slots=True)
class Fitted:
    """A base as the adapters' class has it.

    Attributes
    ----------
    base : Base
        The one that was given, where they need no other class.
    head : NewHead, optional
        What the merged model gets of them.
    config : Mapping
        Entries of config.json that change.
    notes : tuple of str
    doubt : str
        Why the adapter may have been trained on other weights than the base's, or nothing.
    """

    base: Base
    head: NewHead | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubt: str = ""


def with_head(
    base: Base, adapters: Sequence[Adapter], *, pad_token_id: Callable[[], int | None] = lambda: None
) -> Fitted:
    """The base with the head that the adapters hold, where it hasn't that head yet.

    `pad_token_id` gives that of the tokenizer, or None: classes that read a text's last token find it by that.

    Raises
    ------
    UndeterminedError
        If the class isn't known, or weights that it needs are in no file.
    MismatchError
        If two adapters are of different classes, or one doesn't fit its own.
    UnsupportedError
        If the family has no class for the task.
    """
    asking = [(adapter, head_of(adapter.header)) for adapter in adapters if has_labels(adapter.header)]
    classes = [(adapter, head, _class_needed(base, adapter, head)) for adapter, head in asking]
    found = [(adapter, head or Head({}, None), target) for adapter, head, target in classes if target is not None]
    if not found or base.config is None or base.architecture is None:
        return Fitted(base, notes=tuple(_headless(base, adapter) for adapter, head in asking if head is None))
    adapter, head, target = found[0]
    _refuse_several(found)
    brought = {
        parameter: replacement.tensor
        for adapter, _, _ in found
        for parameter, replacement in adapter.header.replaced.items()
        if not replacement.in_place
    }
    refitted = refit(base.checkpoint, base.architecture, target, brought)
    if refitted.missing:
        raise _lost(adapter, refitted, target)
    if head.labels is None:
        what = f"its head ({', '.join(head.modules)}) doesn't tell how many labels it has"
        raise UndeterminedError(what, where=adapter.path, hint=_save_with_head())
    config, notes = pad_config(base.config, target, head, pad_token_id)
    config |= {"architectures": [target.class_name], **label_config(base.config, target, head.labels)}
    new = Base(base.path, base.name)
    new.checkpoint, new.config, new.architecture = refitted.checkpoint, refitted.checkpoint.config, target
    return Fitted(
        new,
        NewHead(target.class_name, head.modules, head.labels),
        config,
        notes,
        _misplaced(*refitted.moved, target),
    )


def _class_needed(base: Base, adapter: Adapter, head: Head | None) -> Architecture | None:
    """The class that the base has to become for the adapter; None where it is of it, or the adapter asks for none."""
    lacking = [] if head is None else [name for name, info in head.tensors.items() if not _has(base, name, info.shape)]
    origin, target = base.architecture, _adapted_class(base, adapter)
    if target is None or origin is None:
        if lacking:
            raise _unknown_class(base, adapter, lacking[0])
        return None
    if head is None:  # PEFT saves it, so the model had none; unless it is called otherwise than PEFT expects
        saved = any(name.endswith(adapter.config.saved) for name in _with_owners(_leaves(target)))
        return None if saved or origin.class_name == target.class_name else target
    if origin.class_name == target.class_name or (origin.class_name and origin.class_name not in origin.classes):
        return target if lacking else None
    return target


def _adapted_class(base: Base, adapter: Adapter) -> Architecture | None:
    """The adapted model's class, where its configuration names one of the base's family, or a task that has one."""
    origin, name = base.architecture, adapter.config.base_class
    if origin is None:
        return None
    target = origin.of_class(name) if name else for_task(origin, adapter.config.task_type or "")
    return target if target is not None and target.class_name in origin.classes else None


def _has(base: Base, parameter: str, shape: tuple[int, ...]) -> bool:
    keys = base.architecture.stored_keys(parameter) if base.architecture else [parameter]
    return any(key in base.checkpoint and base.checkpoint.info(key).shape == shape for key in keys)


def _leaves(architecture: Architecture) -> frozenset[str]:
    return frozenset(architecture.described().layout.letters)


def _with_owners(leaves: frozenset[str]) -> set[str]:
    return {*leaves, *(leaf.rpartition(".")[0] for leaf in leaves)}


def _refuse_several(found: Sequence[tuple[Adapter, Head, Architecture]]) -> None:
    first, _, target = found[0]
    for adapter, _, its in found[1:]:
        if its.class_name != target.class_name:
            raise MismatchError(
                f"was trained as {its.class_name}, and {first.path.name} as {target.class_name}",
                where=adapter.path,
                hint="Merge only one of them.",
            )


def _save_with_head() -> str:
    return (
        "If the model as it was before the training is at hand, head included, save it with save_pretrained and name "
        f"it with {argument('base')}."
    )


def _unknown_class(base: Base, adapter: Adapter, parameter: str) -> TinyLoraError:
    """What to say of a head for which no class is known."""
    config, origin = adapter.config, base.architecture
    what = f"{parameter} is of a classifier's head, which the base lacks"
    if origin is None:
        kind = (base.config or {}).get("model_type")
        known = f"the architecture {kind!r} isn't known" if kind else "no config.json tells the architecture"
        return UndeterminedError(
            f"{what}; {known}, and with it the class that has such a head, where that has the base's weights, and what "
            "else it needs",
            where=adapter.path,
            hint="Merge it with PEFT under the transformers that knows the model, and save what comes of it.",
        )
    named = config.base_class or f"class for the task {config.task_type}"
    return UnsupportedError(
        f"{what}, and no {named} of {origin.model_type} is known",
        where=adapter.path,
        hint=_save_with_head(),
    )


def _lost(adapter: Adapter, refitted: Refit, target: Architecture) -> UndeterminedError:
    first, *others = refitted.missing
    more = f" and {len(others)} more" if others else ""
    name = first.removeprefix(refitted.moved[1]).partition(".")[0]
    return UndeterminedError(
        f"{target.class_name} has {first}{more}, which neither the base nor the adapter holds: it was drawn at random "
        "for the training and isn't saved",
        where=adapter.path,
        hint=f"{_save_with_head()} Another time, name {name} in modules_to_save.",
    )


def _headless(base: Base, adapter: Adapter) -> str:
    of = base.architecture.class_name if base.architecture and base.architecture.class_name else "what it is"
    return f"{adapter.path.name} is said to be a classifier's, and holds no head: the base stays {of}"


def _misplaced(old: str, new: str, target: Architecture) -> str:
    if not old or not new or old == new:
        return ""
    return (
        f"{target.class_name} calls {new.rstrip('.')} what this base calls {old.rstrip('.')}, so from_pretrained draws "
        "it at random: an adapter that was trained on that is of no use elsewhere."
    )
