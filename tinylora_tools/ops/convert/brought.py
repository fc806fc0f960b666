"""What adapters bring whole, beside their factors: which of it is the base's own, and can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...adapters.load import Adapter
from ...bases.tensor_names import BaseNames
from ...errors import TinyLoraError
from ...formats.tensors import same_values
from ...wording import call


@dataclass(frozen=True, slots=True)
class Brought:
    """Parameters, by their names in the model.

    Attributes
    ----------
    own : tuple of str
        With the base's values: PEFT saves embeddings that are adapted along with their factors.
    other : tuple of str
        With other values: biases, modules_to_save, embeddings with more rows.
    unknown : tuple of str
        Of layers that are adapted, where the base's weights aren't at hand.
    """

    own: tuple[str, ...]
    other: tuple[str, ...]
    unknown: tuple[str, ...]


def brought_whole(loaded: Sequence[Adapter]) -> Brought:
    """What the adapters bring whole, compared with their bases as far as these are at hand."""
    found: dict[str, bool | None] = {}
    for adapter in loaded:
        base = adapter.base
        at_hand = base is not None and base.has_weights
        names = BaseNames(base.checkpoint, adapter.architecture) if base is not None and at_hand else None
        for parameter in adapter.header.replaced:
            same = _is_base_s(adapter, parameter, names)
            before = found.get(parameter, True)
            found[parameter] = False if False in (same, before) else None if None in (same, before) else True
    return Brought(
        own=tuple(name for name, same in found.items() if same),
        other=tuple(name for name, same in found.items() if same is False),
        unknown=tuple(name for name, same in found.items() if same is None),
    )


def _is_base_s(adapter: Adapter, parameter: str, names: BaseNames | None) -> bool | None:
    """Whether a parameter has the base's values; None where nobody knows. What isn't an adapted layer's own weight was
    trained, or can only have been saved because it is meant to be used."""
    owner, _, last = parameter.rpartition(".")
    if owner not in adapter.modules or last != "weight":
        return False
    if names is None:
        return None
    try:
        stored = names.group(parameter).stored
    except TinyLoraError:
        return False
    tensor = adapter.header.replaced[parameter].tensor.name
    return same_values(adapter.header.file, tensor, names.base.source(stored), stored)


def merge_instead(path: Path) -> str:
    """The way that always works."""
    return f"Merge the adapter into its base with `{call('merge', path, 'MERGED')}`, and serve that."
