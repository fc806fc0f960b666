"""Parameters that are one tensor, as a configuration says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

FLAG = "tie_word_embeddings"
#: What the flag may say, in the order in which the data write a tie's states.
STATES: tuple[bool | None, ...] = (None, True, False)


@dataclass(frozen=True, slots=True)
class Tie:
    """Parameters that are one tensor in some state of the configuration.

    Attributes
    ----------
    members : tuple of str
        By their names in the model.
    stored : str
        The one of them that save_pretrained keeps.
    holds : bool, optional
        Whether the configuration at hand ties them; None where releases of transformers read it differently.
    optional : bool
        Whether `tie_word_embeddings: false` keeps them apart.
    """

    members: tuple[str, ...]
    stored: str
    holds: bool | None
    optional: bool


def state_of(config: Mapping[str, Any], text: str) -> int:
    """The place of a configuration's state among those that the data list.

    Parameters
    ----------
    config : mapping
        config.json.
    text : str
        Where it has the text model's configuration; "" where there is none of its own.
    """
    top = _flag(config)
    if not text:
        return STATES.index(top)
    inner: Any = config
    for part in text.split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return len(STATES) * STATES.index(top) + STATES.index(_flag(inner if isinstance(inner, Mapping) else {}))


def _flag(config: Mapping[str, Any]) -> bool | None:
    value = config.get(FLAG)
    return None if value is None else bool(value)


def unclear(config: Mapping[str, Any], text: str) -> str | None:
    """Why a configuration's ties aren't among the states that the data list, where that is so.

    The data list the flag at the top and at `text`, for the entries of the default configuration.
    """
    if config.get("share_encoder_decoder_embeddings") is False:
        return "the data have ties for where share_encoder_decoder_embeddings is true, and config.json says it isn't"
    inner: Any = config
    for part in text.split(".")[:-1]:
        inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping) and _flag(inner) is not None:
            return "tie_word_embeddings stands in config.json where the data have no ties for it"
    return None


def agreed(of_releases: Sequence[tuple[int, Iterable[Mapping[str, Any]]]]) -> tuple[Tie, ...]:
    """The ties of a class from those that each release has, newest first, each with its state of the configuration.

    Members can be kept apart only if every release keeps all of them apart; larger groups come first.
    """
    first: dict[frozenset[str], Mapping[str, Any]] = {}
    for _, ties in of_releases:
        for tie in ties:
            first.setdefault(frozenset(tie["members"]), tie)
    found = []
    for members, tie in sorted(first.items(), key=lambda item: -len(item[0])):
        holds = {_tied(members, state, ties) for state, ties in of_releases}
        fast = any(
            one["tied"][-1] == "T" and members.issuperset(one["members"]) for _, ties in of_releases for one in ties
        )
        found.append(Tie(tuple(tie["members"]), tie["stored"], holds.pop() if len(holds) == 1 else None, not fast))
    return tuple(found)


def _tied(members: AbstractSet[str], state: int, ties: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a release has all members in one group in a state."""
    return any(tie["tied"][state] == "T" and members <= set(tie["members"]) for tie in ties)
