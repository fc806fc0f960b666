"""The data on model families: one line each of data/architectures.jsonl, which scripts/make_architectures.py makes from
transformers, or a file of the same form that `tinylora architecture` made of a model that they lack.

A line is {"family", "like", "releases": {release: {"bare", "text", "inner", "classes": {name: description}}}}, newest
release first. `like` names the family whose classes those are, where they are another's; `bare` is the class without a
head, `text` where the configuration has that of its text model, `inner` the model types of inner configurations that
the classes may be built with. A class that an older release describes as the newer does is "same" there. What a
description holds, `architectures.described` says, and `layout`, `ties` and `scaling` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...formats.json_file import read_object
from ...inputs import read_input
from ...sources.locate import expanded
from ...wording import call
from .checked import require_sound

DATA = Path(__file__).parents[2] / "data" / "architectures.jsonl"


@lru_cache(maxsize=1)
def _lines() -> Mapping[str, str]:
    """Each family's line, unread: a line of it is JSON that takes a moment, all of them don't."""
    _, *lines = DATA.read_text("utf-8").splitlines()
    return {line.split('"', 4)[3]: line for line in lines}


# One for the process, as a command line has one: threads that work side by side ask for it too.
_given: Mapping[str, Any] | None = None
_given_mark: str | None = None
_plain = False

PLAIN = "plain"  # in place of a file: modules in numbered layers are no more than layers


@contextmanager
def described_by(architecture: str | Path | None) -> Iterator[None]:
    """Have the model of an architecture file known meanwhile, in place of what the data say; None changes nothing.

    "plain" in place of a file says of models that stay unknown: the modules in their numbered layers are layers that
    the model calls, and whose weights it uses for nothing else.

    Raises
    ------
    FormatError
        If the file is none.
    """
    global _given, _given_mark, _plain
    before = _given, _given_mark, _plain
    try:
        if architecture == PLAIN:
            _plain = True
        elif architecture is not None:
            _given, _given_mark = read_family(at := expanded(architecture)), _digest(at)
        yield
    finally:
        _given, _given_mark, _plain = before


def said_plain() -> bool:
    """Whether modules of an unknown model may be taken for layers and no more."""
    return _plain


def _digest(path: Path) -> str:
    import hashlib  # brings OpenSSL's library, which little else needs

    return hashlib.sha256(read_input(path)).hexdigest()


def given() -> Mapping[str, Any] | None:
    """The family that an architecture file describes, while one is given."""
    return _given


def given_mark() -> str | None:
    """The sha256 of that file, by which another run can tell whether it has the same."""
    return _given_mark


@lru_cache(maxsize=8)
def family(name: str) -> Mapping[str, Any] | None:
    """What the data say of a family, classes that two releases have alike filled in; None if they don't know it."""
    line = _lines().get(name)
    return None if line is None else _filled_in(json.loads(line))


def family_of_class(class_name: str) -> str | None:
    """The family that a class of this name is of; None if none has it, or several."""
    quoted = f'"{class_name}":'
    found = [name for name, line in _lines().items() if quoted in line and '"like":' not in line]
    return found[0] if len(found) == 1 else None


def known_model_types() -> list[str]:
    """Every `model_type` in the data."""
    return sorted(_lines())


def releases() -> tuple[str, ...]:
    """The releases of transformers that the data come from, newest first."""
    with DATA.open(encoding="utf-8") as file:
        return tuple(json.loads(file.readline())["transformers"])


def read_family(path: Path) -> Mapping[str, Any]:
    """What an architecture file says.

    Raises
    ------
    FormatError
        If it is none.
    """
    try:
        data = read_object(path)
        require_sound(data)
        return _filled_in(data)
    except OSError as error:
        raise FormatError(error.strerror or str(error), where=path) from None
    except (FormatError, ValueError, KeyError) as error:
        said = error.what if isinstance(error, FormatError) else error
        raise FormatError(
            f"this is no architecture file ({said})",
            where=path,
            hint=f"Make one of the base with {call('architecture', 'BASE', 'FILE')}.",
        ) from None


def _filled_in(data: Mapping[str, Any]) -> Mapping[str, Any]:
    newer: dict[str, Any] = {}
    for release in data["releases"].values():
        classes = release["classes"]
        classes |= {name: newer[name] for name, description in classes.items() if description == "same"}
        newer |= classes
    return data


def all_families() -> Iterator[Mapping[str, Any]]:
    """Each family of the data, in turn."""
    for line in _lines().values():
        yield _filled_in(json.loads(line))
