"""What a report consists of on a screen: paragraphs, facts and tables. Nothing is known here of terminals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .words import size

#: How a text stands out: "" is as any other.
Style = Literal["", "bold", "good", "bad", "warn", "faint"]


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, wrapped at words; `indent` is where it starts, `hang` how much further its other lines do."""

    text: str
    style: Style = ""
    indent: int = 0
    hang: int = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """A heading (what something is, and which), and what is known of it, line by line."""

    kind: str
    which: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a "name" gives way from the left where there is little room, a "text" (a verdict, a shape)
    and a "number" never do."""

    title: str
    holds: Literal["name", "text", "number"] = "number"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that is shaded by a share of 1, as those of a heat map."""

    text: str
    shade: float = 0.0


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under columns.

    `kinds` is the same summed up, for a terminal that hasn't got the height for all rows; without it the first ones
    are shown there. `notes` are sentences on rows, by their names, `footnote` is one on the table: both stand below.
    `of` is what a row is called. A table that is `whole` is never shortened.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str | Cell]]
    kinds: Table | None = None
    notes: Sequence[tuple[str, str]] = field(default=())
    of: str = "row"
    footnote: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """Sentences, each a row; `of` and `footnote` are a table's."""

    rows: Sequence[str]
    of: str = "item"
    footnote: str = ""


Block = Text | Facts | Table | Items


def written(output: str, bytes_written: int, seconds: float, *lines: str, verb: str = "Wrote") -> Iterator[Block]:
    """What was written, and lines about it."""
    yield Text(f"{verb} {output}: {size(bytes_written)} in {seconds:.2f} s")
    for line in lines:
        yield Text(line, indent=2)


def columns(*titles: str, names: Sequence[str] = (), texts: Sequence[str] = ()) -> tuple[Column, ...]:
    """Columns by their titles: those in `names` give way, those in `texts` are aligned left, the others are numbers."""
    return tuple(
        Column(title, "name" if title in names else "text" if title in texts else "number") for title in titles
    )
