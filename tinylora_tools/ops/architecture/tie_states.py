"""Which parameters of a class are one, for every way in which config.json may say so.

`tie_word_embeddings` may be true, false or absent, and stand at the top, in the configuration of the text model or of a
model between, and a few families have flags of their own. Which of these counts, and what absence means, differs from
class to class and from release to release. So the model is built from each.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...bases.architectures.layout import filled, generalised
from ...bases.architectures.ties import FLAG, STATES
from .build import build
from .scales import entries

#: Names of flags by which families tie more than embeddings. What `tie_encoder_decoder` ties isn't described.
_OWN_FLAG = re.compile(r"(^|_)(tie|tied|share|shared)_(?!word_embeddings$|encoder_decoder$)")

Groups = list[list[str]]
Tie = dict[str, Any]


def text_path(config: Any) -> str:
    """Where a configuration has that of its text model: "" for itself, or a path such as "text_config"."""
    try:
        text = config.get_text_config(decoder=True)
    except (AttributeError, ValueError):
        return ""
    return next((path for path, inner in _inner(config) if inner is text), "")


def _inner(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration, and those inside it with their paths."""
    yield path, config
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _inner(inner, f"{path}.{name}".lstrip("."))


def ties_of(model_class: Any, config: Any) -> tuple[list[Tie], list[str]]:
    """Groups of parameters that are one tensor in some state, larger ones first, and the entries that decide.

    Returns
    -------
    list of dict
        `members`; `stored`, the name that save_pretrained keeps; `tied`, a letter a state, "T" or "F": of each entry
        absent, true and false, the first changing slowest. What all layers tie alike is there once, with `*`.
    list of str
        Paths of the entries in config.json.
    """
    built = _Built(model_class, config)
    flags, groups = built.states()
    every = {frozenset(members): members for some in groups for members in some}
    if not every:
        return [], []
    model = built.model(dict.fromkeys(flags, True)) or build(model_class, config)
    found = []
    for members in sorted(every.values(), key=lambda members: -len(members)):
        tied = "".join("T" if any({*group} >= {*members} for group in some) else "F" for some in groups)
        found.append({"members": members, "stored": _kept(model, members), "tied": tied})
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return _written_once(found, names), flags


def tied_unasked(model_class: Any, config: Any) -> Groups:
    """Groups of parameters that are one tensor where the configuration doesn't say."""
    path = text_path(config)
    return _groups(build(model_class, _with(config, {FLAG: None, **({f"{path}.{FLAG}": None} if path else {})})))


class _Built:
    """A class built from a configuration with other values of its flags."""

    def __init__(self, model_class: Any, config: Any) -> None:
        self.model_class = model_class
        self.config = config
        self._found: dict[frozenset[tuple[str, bool | None]], Groups] = {}

    def model(self, values: Mapping[str, bool | None]) -> Any:
        """None where the configuration refuses these values."""
        try:
            return build(self.model_class, _with(self.config, values))
        except Exception:
            return None

    def groups(self, values: Mapping[str, bool | None]) -> Groups:
        key = frozenset(values.items())
        if key not in self._found:
            model = self.model(values)
            self._found[key] = [] if model is None else _groups(model)
        return self._found[key]

    def states(self) -> tuple[list[str], list[Groups]]:
        """The flags that make a difference, and the groups for each of their states."""
        path = text_path(self.config)
        first = [FLAG, *([f"{path}.{FLAG}"] if path else [])]
        flags = [*first, *(flag for flag in self._others(first) if self._decides(flag, first))]
        table = {values: self.groups(dict(zip(flags, values, strict=True))) for values in _values(flags)}
        for place in reversed(range(len(flags))):
            without = {values: groups for values, groups in table.items() if values[place] is None}
            if all(_alike(groups, without[_set(values, place, None)]) for values, groups in table.items()):
                table = {values[:place] + values[place + 1 :]: groups for values, groups in without.items()}
                del flags[place]
        return flags, [table[values] for values in _values(flags)]

    def _decides(self, flag: str, first: Sequence[str]) -> bool:
        """Whether a flag makes a difference, whatever the first ones say."""
        for others in STATES:
            found = [self.groups({**dict.fromkeys(first, others), flag: value}) for value in STATES]
            if not all(_alike(groups, found[0]) for groups in found):
                return True
        return False

    def _others(self, first: Sequence[str]) -> Iterator[str]:
        """Flags of models inside that tie something of their own, and flags of other names."""
        model = self.model({})
        inside = model.modules() if model is not None else ()
        tying = {type(one.config) for one in inside if getattr(one, "_tied_weights_keys", None)}
        for path, inner in _inner(self.config):
            flag = f"{path}.{FLAG}".lstrip(".")
            if flag not in first and type(inner) in tying:
                yield flag
        for path, value in entries(self.config.to_dict()):
            if isinstance(value, bool) and _OWN_FLAG.search(path.rpartition(".")[2]):
                yield path


def _values(flags: Sequence[str]) -> Iterator[tuple[bool | None, ...]]:
    return itertools.product(STATES, repeat=len(flags))


def _set(values: tuple[bool | None, ...], place: int, value: bool | None) -> tuple[bool | None, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _alike(one: Groups, other: Groups) -> bool:
    return {frozenset(members) for members in one} == {frozenset(members) for members in other}


def _with(config: Any, values: Mapping[str, bool | None]) -> Any:
    """The configuration as a config.json with these entries gives it; None leaves one out."""
    settings = copy.deepcopy(config.to_dict())
    for path, value in values.items():
        *parents, last = path.split(".")
        inner: Any = settings
        for part in parents:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
            if value is not None:
                inner[last] = value
    found = type(config).from_dict(settings)
    found.architectures = config.architectures
    return found


def _groups(model: Any) -> Groups:
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    return [members for members in by_parameter.values() if len(members) > 1]


def _kept(model: Any, members: list[str]) -> str:
    tied = getattr(model, "all_tied_weights_keys", None)
    if tied is not None:
        return next((name for name in members if name not in tied), members[0])
    patterns = [*(model._tied_weights_keys or ())]
    return next((name for name in members if not any(re.search(p, name) for p in patterns)), members[0])


def _written_once(ties: list[Tie], names: Iterable[str]) -> list[Tie]:
    """The ties with those that every layer has alike written as one, of members with `*`."""
    alike: dict[tuple[str, ...], list[Tie]] = {}
    for tie in ties:
        alike.setdefault(tuple(generalised(member) for member in tie["members"]), []).append(tie)
    counts: dict[str, int] = {}
    for name in names:
        counts[generalised(name)] = counts.get(generalised(name), 0) + 1
    found = []
    for patterns, some in alike.items():
        once = {"members": list(patterns), "stored": generalised(some[0]["stored"]), "tied": some[0]["tied"]}
        found += [once] if all(map(_by_layer(once, counts, len(some)), some)) else some
    return found


def _by_layer(once: Tie, counts: Mapping[str, int], layers: int) -> Any:
    """A test of whether a tie is what one that is written for all layers becomes in one of them: it has the numbers of
    the layer in all members, and no layer is without."""

    def test(tie: Tie) -> bool:
        like = tie["members"][0]
        same = all(pattern.count("*") == generalised(like).count("*") > 0 for pattern in once["members"])
        return (
            same
            and [filled(pattern, like) for pattern in once["members"]] == tie["members"]
            and (filled(once["stored"], like), once["tied"]) == (tie["stored"], tie["tied"])
            and all(counts.get(pattern) == layers for pattern in once["members"])
        )

    return test
