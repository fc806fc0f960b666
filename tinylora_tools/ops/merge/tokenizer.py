"""Whose tokenizer the merged model gets: the base's, or the one that stands beside an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...adapters.load import Adapter
from ...errors import MismatchError
from ...formats.tokenizer_files import TokenizerFiles, find_tokenizer
from ...wording import argument


@dataclass(frozen=True, slots=True)
class Chosen:
    """The choice.

    Attributes
    ----------
    tokenizer : TokenizerFiles, optional
        An adapter's, or None for the base's.
    trained_with : tuple of TokenizerFiles
        Those that tell the padding token, the likeliest first.
    notes : tuple of str
    """

    tokenizer: TokenizerFiles | None
    trained_with: tuple[TokenizerFiles, ...]
    notes: tuple[str, ...] = ()

    def pad_token_id(self) -> int | None:
        """The id of the padding token, where one is named: read when it is needed, for the files are large."""
        return next((found for one in self.trained_with if (found := one.pad_token_id) is not None), None)


def choose_tokenizer(
    base: Path, config: Mapping[str, Any] | None, adapters: Sequence[Adapter], which: str | None
) -> Chosen:
    """The tokenizer that comes along: "base" for the base's, "adapter" for an adapter's, None for the base's with a
    note where an adapter's differs.

    Raises
    ------
    MismatchError
        If an adapter's is asked for, and there is none, or several that differ, or its tokens are more than the model's
        embeddings.
    """
    own = find_tokenizer(base)
    owns = () if own is None else (own,)
    beside = [(adapter, found) for adapter in adapters if (found := _beside(adapter)) is not None]
    if which == "adapter":
        taken = _the_one(beside)
        _refuse_too_many(taken, config)
        return Chosen(taken.forgotten(), (taken.forgotten(), *owns))
    if which == "base":
        return Chosen(None, owns)
    notes = tuple(note for adapter, found in beside if (note := _note(adapter, own, found)))
    return Chosen(None, tuple(one.forgotten() for one in (*(found for _, found in beside), *owns)), notes)


def _beside(adapter: Adapter) -> TokenizerFiles | None:
    """The tokenizer beside an adapter: trainings save it there, or where they were told to save the adapter, which an
    adapter with a name of its own is one directory below."""
    if adapter.companions is None:
        return None
    places = dict.fromkeys((adapter.companions, adapter.path))
    return next((found for place in places if (found := find_tokenizer(place)) is not None), None)


def _note(adapter: Adapter, own: TokenizerFiles | None, found: TokenizerFiles) -> str | None:
    ways = f"{argument('tokenizer', 'adapter')} takes it, {argument('tokenizer', 'base')} the base's without a word"
    if own is None:
        return f"the base has no tokenizer, and {adapter.path.name} has: it doesn't come along; {ways}"
    differences = own.differences(found)
    if not differences:
        return None
    *most, last = differences
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"the tokenizer of {adapter.path.name} differs in {listed} from the base's, which comes along; {ways}"


def _the_one(beside: Sequence[tuple[Adapter, TokenizerFiles]]) -> TokenizerFiles:
    if not beside:
        raise MismatchError(
            "no tokenizer stands beside the adapter", hint=f"Leave {argument('tokenizer', 'adapter')} out."
        )
    first, taken = beside[0]
    for adapter, other in beside[1:]:
        differences = taken.differences(other)
        if differences:
            raise MismatchError(
                f"its tokenizer differs in {differences[0]} from that of {first.path.name}",
                where=adapter.path,
                hint=f"Merge with {argument('tokenizer', 'base')}, and copy the tokenizer that you want.",
            )
    return taken


def _refuse_too_many(taken: TokenizerFiles, config: Mapping[str, Any] | None) -> None:
    """Raise MismatchError for a tokenizer with ids that the model has no embedding for."""
    size = (config or {}).get("vocab_size")
    highest = max((taken.vocabulary or {}).values(), default=0)
    if isinstance(size, int) and highest >= size:
        raise MismatchError(
            f"its tokenizer has ids up to {highest}, and the base embeds {size} tokens",
            where=taken.directory,
            hint="Was the vocabulary resized for training? Then save the base resized the same way, and merge into "
            "that.",
        )
