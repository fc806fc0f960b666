"""What a report consists of."""

from __future__ import annotations

from tinylora_tools.cli.screens.blocks import Text, columns, written


def test_columns_by_their_titles() -> None:
    found = columns("Module", "Verdict", "Gap", names=("Module",), texts=("Verdict",))
    assert [(column.title, column.holds) for column in found] == [
        ("Module", "name"), ("Verdict", "text"), ("Gap", "number"),
    ]  # fmt: skip


def test_what_was_written() -> None:
    assert list(written("out", 26, 0.5, "a line", verb="Would write")) == [
        Text("Would write out: 26 bytes in 0.50 s"),
        Text("a line", indent=2),
    ]
