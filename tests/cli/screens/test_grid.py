"""Tables for any width: no number and no verdict is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylora_tools.cli.screens.blocks import Cell, Table, columns
from tinylora_tools.cli.screens.grid import from_the_right, grid
from tinylora_tools.cli.screens.words import width_of

COLUMNS = columns("Module", "Verdict", "Residual", "Gap", names=("Module",), texts=("Verdict",))
NAME = "model.language_model.layers.16.self_attn.q_proj"
ROWS = [(NAME, "fine-tuned", "1.2e-02", "1.0e-300"), ("模型.q_proj", "same-weights", "7.5e-08", "")]


def shown(table: Table, width: int | None) -> list[str]:
    return ["".join(span.text for span in line) for line in grid(table, width)]


def test_a_pipe_gets_names_whole() -> None:
    name = "model." + "layer." * 60 + "q_proj"
    assert [name, "other-model"] in [
        line.split()[:2] for line in shown(Table(COLUMNS, [(name, "other-model", "", "")]), None)
    ]


@given(st.integers(22, 130))
def test_numbers_and_verdicts_are_whole_at_any_width(width: int) -> None:
    lines = shown(Table(COLUMNS, ROWS), width)
    assert all(width_of(line) <= width for line in lines)
    words = " ".join(lines).replace(",", "").split()
    assert {"fine-tuned", "1.2e-02", "1.0e-300", "same-weights", "7.5e-08", "Verdict", "Residual"} <= set(words)
    assert any(line.rstrip().endswith("q_proj") or "q_proj " in line for line in lines)


def test_names_give_way_from_the_left() -> None:
    assert "\n...6.self_attn.q_proj  fine-tuned " in "\n".join(shown(Table(COLUMNS, ROWS), 55))
    assert from_the_right(NAME, 21) == "...6.self_attn.q_proj"
    assert from_the_right("模型模型.q_proj", 12) == "...型.q_proj"


def test_names_stay_apart() -> None:
    """Where a table would cut what tells two layers apart, its rows stand below each other."""
    rows = [(f"model.layers.{i}.self_attn.q_proj", "same-weights", "1.2e-02", "1.0e-01") for i in range(12)]
    for width in range(30, 80):
        lines = shown(Table(COLUMNS, rows), width)
        assert len({line.split()[0] for line in lines if "q_proj" in line}) == 12, width


def test_what_does_not_fit_side_by_side_stands_below() -> None:
    assert shown(Table(COLUMNS, ROWS[:1]), 40) == [
        "...uage_model.layers.16.self_attn.q_proj",
        "  Verdict fine-tuned, Residual 1.2e-02,",
        "  Gap 1.0e-300",
    ]


@pytest.mark.parametrize("width", [40, 80, None])
def test_notes_are_sentences_below(width: int | None) -> None:
    said = [(f"layers.{i}", "its rounding hides smaller changes than these") for i in range(5)]
    lines = shown(Table(COLUMNS, ROWS, notes=[*said, ("head", "is quantized")]), width)
    text = " ".join(" ".join(lines).split())
    assert (
        "layers.0; layers.1; layers.2 and 2 more: its rounding hides smaller changes than these head: is quantized"
        in text
    )


def test_shades_are_kept() -> None:
    (*_, row) = grid(Table(columns("Layer", "q"), [("layers.0", Cell("1%", 0.5))]), None)
    assert [(span.text.strip(), span.shade) for span in row if span.text.strip()] == [("layers.0", 0.0), ("1%", 0.5)]
