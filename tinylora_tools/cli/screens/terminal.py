"""What stdout and stderr lead to: its room, whether it has colours and a cursor; and lines printed there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO

import click

from .page import Room
from .paragraph import Line, Span

#: Columns that text is laid out for, where a terminal says it has fewer, or nonsense.
_LEAST_WIDTH = 20

#: Styles as click has them.
_LOOKS: dict[str, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "good": {"fg": "green", "bold": True},
    "bad": {"fg": "red", "bold": True},
    "warn": {"fg": "yellow"},
    "faint": {"dim": True},
}

#: Shades from nothing to a share of 1, as numbers among a terminal's 256 colours.
SHADES = (230, 223, 216, 209, 202)


#: What stands for rules and bars where the encoding lacks them: a bar's height as a digit.
_PLAIN = str.maketrans("\u2500\u2591\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "-.12345678")


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a stream leads to. `room` has no width and no height where it is a pipe or a file; a `plain` one has no
    characters for rules and bars."""

    room: Room
    colour: bool
    cursor: bool
    plain: bool

    def spelled(self, text: str) -> str:
        """A text in characters that it has, as far as they are ours."""
        return text.translate(_PLAIN) if self.plain else text


def terminal_of(stream: TextIO) -> Terminal:
    """What a stream leads to, by what it is and by the environment: NO_COLOR, FORCE_COLOR, TERM, COLUMNS and LINES."""
    there = stream.isatty()
    dumb = os.environ.get("TERM") == "dumb"
    width, height = _measures(stream) if there else (None, None)
    return Terminal(Room(width, height), _colour(there, dumb), there and not dumb, not _has(stream, "\u2500\u2588"))


def _colour(there: bool, dumb: bool) -> bool:
    """The order of CPython's own messages: NO_COLOR, then FORCE_COLOR, then what the terminal can."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (there and not dumb)


def _measures(stream: TextIO) -> tuple[int, int | None]:
    """Columns and lines of a terminal: as the environment has them, else as it says itself; 80 columns where it knows
    of none, as those that a program made often are."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        found = os.terminal_size((0, 0))
    width, height = (_number(name) or known for name, known in zip(("COLUMNS", "LINES"), found, strict=True))
    return max(_LEAST_WIDTH, width or 80), height or None


def _number(variable: str) -> int:
    said = os.environ.get(variable, "")
    return int(said) if said.isascii() and said.isdigit() else 0


def _has(stream: TextIO, characters: str) -> bool:
    try:
        characters.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def say(text: str, *, err: bool = False) -> None:
    """A text on stdout or stderr, in the encoding that was asked for (click has UTF-8 in place of ASCII)."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def print_lines(lines: Iterable[Line], *, err: bool = False) -> None:
    """Lines on stdout or stderr, with what it can of their looks."""
    stream = sys.stderr if err else sys.stdout
    terminal = terminal_of(stream)
    for line in lines:
        text = "".join(map(_looking, line)) if terminal.colour else "".join(span.text for span in line)
        say(terminal.spelled(text), err=err)


def _looking(span: Span) -> str:
    """A span with its look, in a terminal's escape sequences."""
    look = dict(_LOOKS[span.style])
    if (number := shade(span.shade)) is not None:
        look |= {"bg": number, "fg": "black"}
    return click.style(span.text, **look) if look else span.text


def shade(share: float) -> int | None:
    """The colour of a share of 1; None for next to nothing."""
    step = round(min(1.0, max(0.0, share)) * len(SHADES))
    return SHADES[step - 1] if step else None
