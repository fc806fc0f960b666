"""How to go on where something about a model isn't known."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UndeterminedError
from ...wording import argument, call


def way_out() -> str:
    """How to go on where the data don't know a model."""
    return (
        f"Describe the model with {call('architecture', 'BASE', 'FILE')}, where the installed transformers knows it, "
        f"and use {call('described_by', 'FILE')}."
    )


def plain_hint(*, at_hand: bool) -> str:
    """How to go on where the data don't know a model, and the modules are in its numbered layers."""
    first = "" if at_hand else f"Name the base's directory with {argument('base', ...)}. "
    plain = call("described_by", architecture="plain")
    return f"{first}{way_out()} Or say {plain}, if they are that, as those of most models are."


def own_code(model_type: str) -> str:
    """What to say of a base whose config.json names code of its own."""
    return (
        f"config.json names code that the base brings along (auto_map), with which the order of its modules may be "
        f"another than that of transformers' {model_type}"
    )


def order_hint(which: str = "the model's modules, all or the targeted ones,") -> str:
    """How to give an order that no file tells."""
    return (
        f"{way_out()} Or give {which} with {argument('module_order', ...)}, in the order of model.named_modules(), one "
        "name a line."
    )


def release_hint() -> str:
    """How to say what two releases of transformers differ in."""
    return f"Say which the adapter was trained under with {argument('release', '4')} or {argument('release', '5')}."


def no_modules(model_type: str, names: Sequence[str]) -> UndeterminedError:
    """What to say of modules that the data on a family haven't got."""
    return UndeterminedError(
        f"transformers' {model_type} has no module {names[0]}"
        + (f" (nor {len(names) - 1} others that the adapter targets)" if len(names) > 1 else ""),
        hint=order_hint(),
    )
