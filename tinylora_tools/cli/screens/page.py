"""Blocks as lines, for as much room as there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .blocks import Block, Facts, Items, Table, Text
from .grid import grid
from .paragraph import Line, Span, labelled, paragraph
from .words import plural, printable, width_of

#: Which rows of long tables: those that fit, summed up by kind of layer; all; or summed up wherever they can be.
Rows = Literal["auto", "all", "kinds"]

#: Rows of a table that can't be summed up which are shown however low the terminal is.
_LEAST_ROWS = 5


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to show something in: columns and lines, None where there is no end to them."""

    width: int | None = None
    height: int | None = None


def page(blocks: Iterable[Block], room: Room, rows: Rows = "auto") -> list[Line]:
    """The blocks' lines, with the tables' rows as `rows` has it."""
    whole = list(blocks)
    if rows == "kinds":
        return _laid_out([_summed_up(block) for block in whole], room)
    lines = _laid_out(whole, room)
    if rows == "all" or room.height is None or len(lines) < room.height:
        return lines
    summed = [_summed_up(block) for block in whole]
    lines = _laid_out(summed, room)
    if len(lines) < room.height:
        return lines
    long = [block for block in summed if isinstance(block, (Table, Items)) and len(block.rows) > _LEAST_ROWS]
    others = len(lines) - sum(len(block.rows) for block in long)
    each = max(_LEAST_ROWS, (room.height - others) // max(1, len(long)) - 3)
    return _laid_out([_first(block, each) for block in summed], room)


def _summed_up(block: Block) -> Block:
    """A table by kinds of layer, where that is shorter."""
    if not isinstance(block, Table) or block.kinds is None or len(block.kinds.rows) >= len(block.rows):
        return block
    return replace(
        block.kinds, notes=block.notes, footnote=f"{plural(len(block.rows), block.of)}; --rows all lists them"
    )


def _first(block: Block, count: int) -> Block:
    """A table's first rows; those that stand for others are all kept."""
    if not isinstance(block, (Table, Items)) or block.footnote or len(block.rows) <= count:
        return block
    if isinstance(block, Table) and block.whole:
        return block
    footnote = f"and {plural(len(block.rows) - count, f'more {block.of}')}; --rows all lists them"
    if isinstance(block, Items):
        return replace(block, rows=block.rows[:count], footnote=footnote)
    return replace(block, rows=block.rows[:count], footnote=footnote)


def _laid_out(blocks: Sequence[Block], room: Room) -> list[Line]:
    lines: list[Line] = []
    for number, block in enumerate(blocks):
        if lines and (isinstance(block, Table) or isinstance(blocks[number - 1], Table)):
            lines.append(())
        lines += _lines(block, room)
    return lines


def _lines(block: Block, room: Room) -> Iterator[Line]:
    if isinstance(block, Text):
        yield from paragraph(block.text, room.width, block.style, block.indent, block.hang)
    elif isinstance(block, Facts):
        yield from labelled(Span(f"{block.kind}  ", "bold"), printable(block.which), room.width, 2)
        wide = max(map(width_of, block.facts), default=0) + 2
        for label, text in block.facts.items():
            yield from labelled(Span(f"  {label:<{wide}}"), text, room.width, wide + 2)
    else:
        if isinstance(block, Table):
            yield from grid(block, room.width)
        else:
            for text in block.rows:
                yield from paragraph(text, room.width, indent=2)
        if block.footnote:
            yield from paragraph(block.footnote, room.width, "faint", indent=2)
