"""Figures by layer and kind of module."""

from __future__ import annotations

from tinylora_tools.cli.screens.blocks import Cell
from tinylora_tools.cli.screens.heat import heat_map


def test_a_row_a_layer_and_a_column_a_kind() -> None:
    figures = {
        "model.layers.0.mlp.up_proj": 0.25,
        "model.layers.1.mlp.up_proj": 0.5,
        "model.layers.1.self_attn.q_proj": 0.0,
        "model.layers.1.mlp.experts.0.up_proj": 1.0,
        "lm_head": 0.1,
        "model.layers.10.mlp.up_proj": 0.0,
    }
    table = heat_map(figures, "{:.0%}".format)
    assert [column.title for column in table.columns] == ["Layer", "up_proj", "q_proj", "lm_head"]
    assert table.rows == [
        ["layers.0", Cell("25%", 0.25), Cell(""), Cell("")],
        ["layers.1", Cell("100%", 1.0), Cell("0%"), Cell("")],
        ["layers.10", Cell("0%"), Cell(""), Cell("")],
        ["-", Cell(""), Cell(""), Cell("10%", 0.1)],
    ]


def test_nothing_lost_anywhere() -> None:
    assert heat_map({"h.0.q": 0.0}, str).rows == [["h.0", Cell("0.0")]]
    assert heat_map({}, str).rows == []
