"""What an architecture file says, held against its form: unlike the data of this release, it may come from anybody."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from .layout import KINDS
from .ties import STATES

#: Steps of a module's path, at most; transformers' deepest has ten.
_DEEPEST = 50

#: Entries that decide on ties, at most: each has three states.
_MOST_FLAGS = 6

_NAME = re.compile(r"[\w*-]+(\.[\w*-]+)*", re.ASCII)
_PART = re.compile(r"[\w.*]+", re.ASCII)
_WORD = re.compile(r"[() ]|[^() ]+")


def require_sound(data: Mapping[str, Any]) -> None:
    """Check every entry that is read.

    Raises
    ------
    ValueError
        Which says what is wrong with it.
    """
    releases = data.get("releases")
    _require(isinstance(data.get("family"), str), "it names no family")
    _require(isinstance(releases, dict) and releases, "it has no releases")
    for name, release in _items(releases, "releases"):
        _require(isinstance(release, dict), f"release {name!r} is no object")
        _require(isinstance(release.get("bare"), str), f"release {name!r} has no bare class")
        _require(isinstance(release.get("text", ""), str), f"release {name!r} has a text model of no name")
        for path, types in _items(release.get("inner", {}), "inner"):
            _require(_are_names(types), f"the types of {path!r} are no list of names")
        classes = _items(release.get("classes"), "classes")
        _require(classes, f"release {name!r} has no classes")
        for class_name, description in classes:
            if description != "same":  # as a newer release has it, which is looked up
                _require_description(class_name, description)


def _require_description(name: str, description: Any) -> None:
    _require(isinstance(description, dict), f"{name} is no object")
    flags = description.get("flags", [])
    _require(_are_names(flags) and len(flags) <= _MOST_FLAGS, f"{name}'s 'flags' is no short list of names")
    states = len(STATES) ** len(flags)
    for key, value in description.items():
        try:
            _require(key in _ENTRIES, "isn't known")
            _ENTRIES[key](value)
            for tie in value if key == "ties" else ():
                _require_tie(tie, states)
        except ValueError as error:
            raise ValueError(f"{name}'s {key!r} {error}") from None


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _items(value: Any, what: str) -> list[tuple[str, Any]]:
    _require(isinstance(value, dict), f"{what!r} is no object")
    return list(value.items())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _name(value: Any) -> None:
    _require(isinstance(value, str) and _is_path(value), f"can't be {value!r}")


def _name_or_none(value: Any) -> None:
    _require(value == "" or (isinstance(value, str) and _is_path(value)), f"can't be {value!r}")


def _is_path(value: str) -> bool:
    return value.count(".") < _DEEPEST and _NAME.fullmatch(value) is not None


def _names(value: Any) -> None:
    _require(_are_names(value), "is no list of names")
    for one in value:
        _name(one)


def _parts(value: Any) -> None:
    """Parts of names, in which a few `*` may stand for anything."""
    _require(_are_names(value), "is no list of parts of names")
    for one in value:
        _require(_PART.fullmatch(one) and one.count("*") < 4, f"can't be {one!r}")


def _modules(value: Any) -> None:
    """A tree as `layout` describes it."""
    _require(isinstance(value, str), "is no tree of names")
    depths, before, steps = [0], " ", 0
    for word in _WORD.findall(value):
        if word == "(":
            _require(before not in "( )", "has a bracket behind no name")
            depths.append(steps)
        elif word == ")":
            _require(len(depths) > 1 and before not in "( ", "has a bracket too many")
            depths.pop()
        elif word != " ":
            name, _, letter = word.partition(":")
            _require(before in "( " and _NAME.fullmatch(name), f"can't hold {word!r}")
            _require(not letter or letter in KINDS, f"has {word!r}, a kind that isn't known")
            steps = depths[-1] + name.count(".") + 1
            _require(steps <= _DEEPEST, f"is more than {_DEEPEST} steps deep")
        before = word
    _require(len(depths) == 1, "has a bracket too few")


def _renamed(value: Any) -> None:
    for one, other in _items(value, "renamed"):
        _name_or_none(one)
        _name_or_none(other)


def _scales(value: Any) -> None:
    for name, scale in _items(value, "scales"):
        _name(name)
        given = dict(_items(scale, name))
        held, flag, default = given.pop("as", None), given.pop("if", None), given.pop("default", None)
        _require(held in ("buffer", "number"), f"says of {name} that it is held as {held!r}")
        _require((flag is None) == (default is None), f"has one of 'if' and 'default' for {name}")
        _require(flag is None or (isinstance(flag, str) and isinstance(default, bool)), f"has no flag for {name}")
        ((what, by),) = given.items() if len(given) == 1 else [("", None)]
        is_number = isinstance(by, (int, float)) and not isinstance(by, bool) and 0.0 < by < math.inf
        fits = is_number if what == "value" else what in ("value_of", "root_of") and isinstance(by, str)
        _require(fits, f"has no one factor for {name}")


def _whole_where(value: Any) -> None:
    for name, groups in _items(value, "whole_where"):
        _name(name)
        _require(isinstance(groups, list) and groups, f"has no groups of entries for {name}")
        for group in groups:
            for path, default in _items(group, name):
                _name(path)
                plain = default is None or isinstance(default, (str, int, float))
                _require(plain, f"has {path!r} of {name} with a value that config.json can't be held against")


def _ties(value: Any) -> None:
    _require(isinstance(value, list), "is no list")


def _require_tie(tie: Any, states: int) -> None:
    _require(isinstance(tie, dict) and tie.keys() == {"members", "stored", "tied"}, "has a tie without members")
    _names(tie["members"])
    tied = tie["tied"]
    _require(tie["stored"] in tie["members"], "has a tie that stores another tensor")
    _require(isinstance(tied, str) and len(tied) == states and set(tied) <= set("TF"), "has a tie in other states")


#: What may be said of a class, and what holds each entry against its form.
_ENTRIES: Mapping[str, Callable[[Any], None]] = {
    "modules": _modules, "prefix": _name_or_none, "input": _name, "output": _name,
    "stored": _renamed, "older": _renamed, "fused": _names, "flags": _names, "scales": _scales, "ties": _ties,
    "whole_where": _whole_where, "float32": _parts, "float32_always": _parts,
}  # fmt: skip
