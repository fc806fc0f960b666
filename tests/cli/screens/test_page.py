"""Reports for as much room as there is."""

from __future__ import annotations

from tinylora_tools.cli.screens.blocks import Block, Facts, Items, Table, Text, columns
from tinylora_tools.cli.screens.page import Room, Rows, page

ROWS = [(f"layers.{i}.q", str(i)) for i in range(40)]
KINDS = Table(columns("Layers", "Count", names=("Layers",)), [("q", "40")])
MODULES = Table(
    columns("Module", "Index", names=("Module",)), ROWS, kinds=KINDS, notes=[("layers.3.q", "odd")], of="module"
)
LIST = Items([f"file {i} was changed" for i in range(40)], of="difference")


def shown(blocks: list[Block], room: Room, rows: Rows = "auto") -> list[str]:
    return ["".join(span.text for span in line) for line in page(blocks, room, rows)]


def test_a_pipe_gets_all_rows_and_a_terminal_what_fits() -> None:
    assert len(shown([MODULES], Room())) == 43
    assert len(shown([MODULES], Room(80, 44))) == 43
    few = shown([MODULES], Room(80, 24))
    assert [line.split() for line in few] == [
        ["Layers", "Count"], ["─" * 14], ["q", "40"], ["layers.3.q:", "odd"],
        ["40", "modules;", "--rows", "all", "lists", "them"],
    ]  # fmt: skip


def test_rows_that_are_asked_for() -> None:
    assert len(shown([MODULES], Room(80, 24), "all")) == 43
    assert shown([MODULES], Room(), "kinds") == shown([MODULES], Room(80, 24))


def test_what_has_no_kinds_is_shown_as_far_as_there_is_room() -> None:
    lines = shown([Text("head"), LIST, Text("end")], Room(80, 24))
    assert lines[-2:] == ["  and 21 more differences; --rows all lists them", "end"]
    assert len(lines) < 24
    low = shown([LIST, LIST], Room(80, 3))
    assert sum("was changed" in line for line in low) == 10


def test_facts_and_tables_stand_apart() -> None:
    lines = shown([Facts("Checkpoint", "at/here", {"Files": "1", "Parameters": "2"}), KINDS, Text("end")], Room())
    assert lines[:4] == ["Checkpoint  at/here", "  Files       1", "  Parameters  2", ""]
    assert lines[-2:] == ["", "end"]
