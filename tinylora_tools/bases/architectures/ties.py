"""Parameters that are one tensor, as a configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from .described import Described
from .layout import filled, generalised

FLAG = "tie_word_embeddings"
#: What a flag may say, in the order in which the data write a tie's states.
STATES: tuple[bool | None, ...] = (None, True, False)


@dataclass(frozen=True, slots=True)
class Tie:
    """Parameters that are one tensor in some state of the configuration.

    Attributes
    ----------
    members : tuple of str
        By their names in the model. Those of every layer are written once, with `*` for its numbers.
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

    @property
    def by_layer(self) -> bool:
        """Whether it is written once for all layers."""
        return "*" in self.stored.split(".")

    def of(self, parameter: str) -> Tie | None:
        """The tie that a parameter is in: this one, or this one of its layer; None if it is in none."""
        if parameter in self.members:
            return self
        if generalised(parameter) not in self.members:
            return None
        members = tuple(filled(member, parameter) for member in self.members)
        return replace(self, members=members, stored=filled(self.stored, parameter))


class Ties:
    """All ties that count for a model.

    Parameters
    ----------
    classes : sequence of sequences of Described
        Of each class that the model may be of, in each release that has it, newest first.
    config : mapping, optional
        config.json; None where it isn't at hand.
    text : str
        Where it has the text model's configuration.
    fitted : bool
        Whether the classes were described with this very configuration.
    """

    def __init__(
        self, classes: Sequence[Sequence[Described]], config: Mapping[str, Any] | None, text: str, *, fitted: bool
    ) -> None:
        self._classes = classes
        self._config = config
        self._text = text
        self._fitted = fitted

    @cached_property
    def all(self) -> tuple[Tie, ...]:
        """Larger groups first; those of numbered layers once, with `*`."""
        here = self._config or {}
        found: list[Tie] = []
        for one in self._classes:
            found += agreed(
                [Reading(state_of(here, d.flags), untied_state(here, d.flags), d.ties, d.may_have) for d in one]
            )
        if self._config is None:  # which would say which of them hold
            found = [replace(tie, holds=None) for tie in found]
        return tuple(sorted(found, key=lambda tie: -len(tie.members)))

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Every `tie_word_embeddings` that must be false where embeddings are to be kept apart."""
        usual = [FLAG, *([f"{self._text}.{FLAG}"] if self._text else [])]
        own = [flag for one in self._classes for described in one for flag in described.flags]
        return tuple(dict.fromkeys(flag for flag in (*usual, *own) if flag.rpartition(".")[2] == FLAG))

    def having(self, parameter: str) -> list[Tie]:
        """Every group that a parameter is tied in in some state, larger ones first."""
        return [found for tie in self.all if (found := tie.of(parameter)) is not None]

    def of(self, parameter: str) -> Tie | None:
        """The group that a parameter, by its name in the model, is tied in: one that holds, if there is one."""
        having = self.having(parameter)
        holding = (tie for tie in having if tie.holds is not False)
        return next(holding, having[0] if having else None)

    def among(self, keys: Iterable[str]) -> tuple[Tie, ...]:
        """Every tie, those of numbered layers for each layer that a checkpoint with these tensors has."""
        if not any(tie.by_layer for tie in self.all):
            return self.all
        keys = list(keys)
        names = sorted({name for one in self._classes for described in one for name in described.parameters_of(keys)})
        found = (tie.of(name) for tie in self.all for name in (names if tie.by_layer else tie.members))
        return tuple(dict.fromkeys(tie for tie in found if tie is not None))

    def unclear(self, parameter: str) -> str | None:
        """Why nobody knows what a parameter is tied to, where that is so: the data have the ties of the default shape,
        written out where they are others from layer to layer."""
        pattern = generalised(parameter)
        if self._fitted:
            return None
        if any(pattern == generalised(member) != member for tie in self.all for member in tie.members):
            return "the model ties weights of its numbered layers, of which ones its configuration decides"
        if (self._config or {}).get("tie_encoder_decoder"):
            return "config.json says tie_encoder_decoder, and the data don't know what that ties"
        return None


def state_of(config: Mapping[str, Any], flags: Sequence[str]) -> int:
    """The place of a configuration's state among those that the data list.

    Parameters
    ----------
    config : mapping
        config.json.
    flags : sequence of str
        Its entries that decide, such as `text_config.tie_word_embeddings`: the first changes slowest.
    """
    return _number(_entry(config, flag) for flag in flags)


def untied_state(config: Mapping[str, Any], flags: Sequence[str]) -> int:
    """The same with every `tie_word_embeddings` false."""
    return _number(False if flag.rpartition(".")[2] == FLAG else _entry(config, flag) for flag in flags)


def _number(values: Iterable[bool | None]) -> int:
    number = 0
    for value in values:
        number = number * len(STATES) + STATES.index(value)
    return number


def _entry(config: Mapping[str, Any], path: str) -> bool | None:
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else bool(value)


class Reading(NamedTuple):
    """What a release makes of a configuration: the number of its state, that of the same with no embeddings tied, the
    ties that the data list, and whether its class has a parameter."""

    state: int
    untied: int
    ties: Iterable[Mapping[str, Any]]
    has: Callable[[str], bool] = lambda _: True


def agreed(readings: Sequence[Reading]) -> tuple[Tie, ...]:
    """The ties of a class from those that each release has, newest first; of parameters that a release calls
    otherwise, that says nothing.

    Members can be kept apart only if every release keeps all of them apart; larger groups come first.
    """
    first: dict[frozenset[str], Mapping[str, Any]] = {}
    for reading in readings:
        for tie in reading.ties:
            first.setdefault(frozenset(tie["members"]), tie)
    found = []
    for members, tie in sorted(first.items(), key=lambda item: -len(item[0])):
        holds = {_tied(members, one.state, one.ties) for one in readings if all(map(one.has, members))}
        fast = any(
            one["tied"][reading.untied] == "T" and members.issuperset(one["members"])
            for reading in readings
            for one in reading.ties
        )
        found.append(Tie(tuple(tie["members"]), tie["stored"], holds.pop() if len(holds) == 1 else None, not fast))
    return tuple(found)


def _tied(members: AbstractSet[str], state: int, ties: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a release has all members in one group in a state."""
    return any(tie["tied"][state] == "T" and members <= set(tie["members"]) for tie in ties)
