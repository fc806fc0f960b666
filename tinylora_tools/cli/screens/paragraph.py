"""Lines of spans, and text wrapped into them at words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .blocks import Style
from .words import printable, width_of

#: Columns that are left for text, however far it would be indented.
_LEAST = 20


class Span(NamedTuple):
    """A piece of a line that looks alike; `shade` darkens what is behind it, by a share of 1."""

    text: str
    style: Style = ""
    shade: float = 0.0


Line = tuple[Span, ...]


def wrap(text: str, width: int | None, first: int = 0, hang: int = 0) -> Iterator[str]:
    """Lines of at most `width` columns, but for words that are longer.

    `first` columns of the first line are taken already, the other lines are indented by `hang`. Control characters are
    made visible.
    """
    return fill(re.findall(r"\s*\S+", printable(text)), width, first, hang)


def fill(pieces: Iterable[str], width: int | None, first: int = 0, hang: int = 0) -> Iterator[str]:
    """Lines as those of `wrap`, of pieces that stay whole, each with the blanks in front of it."""
    room = None if width is None else width - first
    hang = 0 if width is None else min(hang, max(0, width - _LEAST))
    line = ""
    for piece in pieces:
        if room is not None and line.strip() and width_of(line + piece) > room:
            yield line
            line, room = " " * hang + piece.lstrip(), width
        else:
            line += piece
    yield line


def paragraph(text: str, width: int | None, style: Style = "", indent: int = 0, hang: int = 2) -> Iterator[Line]:
    """A text's lines, indented."""
    for number, line in enumerate(wrap(text, width, indent, indent + hang)):
        yield (Span((" " * indent if not number else "") + line, style),)


def labelled(label: Span, text: str, width: int | None, hang: int) -> Iterator[Line]:
    """A label and a text behind it, whose other lines are indented by `hang`; below it where there is no room."""
    wide = width_of(label.text)
    word = next(iter(text.split()), "")
    crowded = width is not None and (width - wide < _LEAST or wide + width_of(word) > width)
    if width is not None and crowded and wide + width_of(text) > width:
        yield (Span(label.text.rstrip(), label.style),)
        yield from paragraph(text, width, indent=2 + len(label.text) - len(label.text.lstrip()), hang=0)
        return
    first, *others = wrap(text, width, wide, hang)
    yield (label, Span(first))
    yield from ((Span(line),) for line in others)
