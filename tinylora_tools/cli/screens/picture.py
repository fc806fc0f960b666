"""What a person saw, as a picture: an SVG or an HTML file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .paragraph import Line, Span
from .terminal import shade
from .words import width_of

if TYPE_CHECKING:
    from rich.text import Text

ENDINGS = (".svg", ".html")

#: Columns of a picture of what had no width, at least and at most.
_LEAST, _MOST = 40, 120

_LOOKS = {"": "", "bold": "bold", "good": "bold green", "bad": "bold red", "warn": "yellow", "faint": "dim"}


def picture(lines: Sequence[Line], ending: str, title: str) -> str:
    """The lines as a file's text, with a command line above them."""
    from rich.console import Console

    widest = max((sum(width_of(span.text) for span in line) for line in lines), default=0)
    width = min(_MOST, max(_LEAST, widest))
    console = Console(
        record=True,
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for line in lines:
        console.print(_text(line), soft_wrap=False, highlight=False)
    return console.export_html() if ending == ".html" else console.export_svg(title=title)


def _text(line: Line) -> Text:
    from rich.text import Text

    return Text.assemble(*((span.text, _look(span)) for span in line))


def _look(span: Span) -> str:
    number = shade(span.shade)
    return _LOOKS[span.style] if number is None else f"black on color({number})"
