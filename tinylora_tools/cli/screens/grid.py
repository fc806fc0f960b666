"""Tables as lines: side by side where the columns fit, one value behind the other where they don't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .blocks import Cell, Column, Table
from .paragraph import Line, Span, fill, paragraph
from .words import printable, some_of, width_of

#: What is left of a name, at least, and between columns, at best and where it is narrow.
_LEAST_NAME, _GAP, _NARROW_GAP = 12, 3, 2

_RULE = "\u2500"


def grid(table: Table, width: int | None) -> Iterator[Line]:
    """A table's lines, its notes behind them; no number and no text is cut, names are from the left.

    Parameters
    ----------
    width : int, optional
        Columns that there are; None for as many as it takes.
    """
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    widths = [
        max([width_of(column.title), *(width_of(row[i].text) for row in rows)])
        for i, column in enumerate(table.columns)
    ]
    gap = _GAP if width is None or sum(widths) + _GAP * (len(widths) - 1) <= width else _NARROW_GAP
    room = None if width is None else width - gap * (len(widths) - 1)
    fitting = widths if room is None or sum(widths) <= room else _narrowed(_leasts(table.columns, rows), widths, room)
    if fitting is None and width is not None:
        for row in rows:
            yield from _record(table.columns, row, width)
    else:
        yield from _side_by_side(table.columns, rows, fitting or widths, gap)
    yield from notes(table.notes, width)


def notes(said: Sequence[tuple[str, str]], width: int | None) -> Iterator[Line]:
    """Sentences on rows, each once, behind the names of those that it is on."""
    by_text: dict[str, list[str]] = {}
    for name, note in said:
        by_text.setdefault(note, []).append(name)
    for note, names in by_text.items():
        yield from paragraph(f"{some_of(names, apart='; ')}: {note}", width, indent=2)


def _cell(cell: str | Cell) -> Cell:
    return Cell(printable(cell)) if isinstance(cell, str) else Cell(printable(cell.text), cell.shade)


def _leasts(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> dict[int, int]:
    """How narrow each column of names may be: rows have to stay apart, as layers of one kind do by their numbers."""
    leasts = {}
    for i, column in enumerate(columns):
        if column.holds != "name":
            continue
        names = {row[i].text for row in rows}
        least, most = max(_LEAST_NAME, width_of(column.title)), max(map(width_of, names), default=0)
        while least < most:
            middle = (least + most) // 2
            if len({from_the_right(name, middle) for name in names}) == len(names):
                most = middle
            else:
                least = middle + 1
        leasts[i] = least
    return leasts


def _narrowed(leasts: Mapping[int, int], widths: Sequence[int], room: int) -> list[int] | None:
    """Widths that fit, taken from the widest names; None where there are none."""
    narrowed = list(widths)
    while sum(narrowed) > room:
        widest = max((i for i in leasts if narrowed[i] > leasts[i]), key=lambda i: narrowed[i], default=None)
        if widest is None:
            return None
        narrowed[widest] -= 1
    return narrowed


def _side_by_side(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], widths: Sequence[int], gap: int
) -> Iterator[Line]:
    yield _row(columns, [Cell(column.title) for column in columns], widths, gap, heading=True)
    yield (Span(_RULE * (sum(widths) + gap * (len(widths) - 1)), "faint"),)
    for row in rows:
        yield _row(columns, row, widths, gap)


def _row(
    columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], gap: int, *, heading: bool = False
) -> Line:
    spans = []
    for i, (column, cell, width) in enumerate(zip(columns, row, widths, strict=True)):
        text = from_the_right(cell.text, width)
        blank = " " * (width - width_of(text))
        text = blank + text if column.holds == "number" else text + blank
        last = i == len(columns) - 1
        spans += [
            Span(text if not last or cell.shade else text.rstrip(), "bold" if heading else "", cell.shade),
            Span("" if last else " " * gap),
        ]
    return tuple(span for span in spans if span.text)


def from_the_right(name: str, width: int) -> str:
    """A name's end, behind an ellipsis where its beginning is left out."""
    if width_of(name) <= width:
        return name
    kept = name[len(name) - width + 3 :] if name.isascii() else name
    while width_of(kept) > width - 3:
        kept = kept[1:]
    return f"...{kept}"


def _record(columns: Sequence[Column], row: Sequence[Cell], width: int) -> Iterator[Line]:
    """A row as its name, and below it each value behind its title; what is empty is left out."""
    first = next((i for kind in ("name", "text") for i, column in enumerate(columns) if column.holds == kind), None)
    if first is not None:
        yield (Span(from_the_right(row[first].text, width), "bold"),)
    pairs = [
        (column.title, cell.text.strip())
        for i, (column, cell) in enumerate(zip(columns, row, strict=True))
        if i != first and cell.text.strip()
    ]
    indent, pieces = 2 * (first is not None), []
    for number, (title, value) in enumerate(pairs, start=1):
        value += "," * (number < len(pairs))
        whole = width_of(title) + 1 + width_of(value) + indent <= width  # else the value stands below its title
        pieces += [f" {title} {value}"] if whole else [f" {title}", f" {value}"]
    if pieces:
        indented = [" " * indent + pieces[0].lstrip(), *pieces[1:]]
        yield from ((Span(line),) for line in fill(indented, width, 0, 2))
