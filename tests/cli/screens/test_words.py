"""Texts and numbers as people read them."""

from __future__ import annotations

from dataclasses import dataclass

from tinylora_tools.cli.screens.words import (
    bars,
    by_kind,
    extent,
    kind_of,
    printable,
    scientific,
    size,
    some_of,
    width_of,
)


def test_names_from_files_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\ud800\n") == "a\\x1b[31mb\\x07\\u202ec\\ud800\\n"


def test_sizes() -> None:
    assert [size(n) for n in (1, 26, 9999, 10_000, 999_499_999, 3_090_000_000)] == [
        "1 byte", "26 bytes", "9999 bytes", "10 kB", "999 MB", "3.09 GB",
    ]  # fmt: skip


def test_bars() -> None:
    assert bars([1.0, 0.5, 0.25, 0.07, 0.06, 0.0, 7.0, -1.0]) == "█▄▂▁  █ "


def test_columns_of_a_terminal() -> None:
    assert [width_of(text) for text in ("abc", "模型", "e\u0301", "")] == [3, 4, 1, 0]


def test_figures() -> None:
    assert [scientific(None), scientific(0.0123), scientific(1e-300)] == ["", "1.2e-02", "1.0e-300"]
    assert [extent([3, 3]), extent([24, 16]), extent([0.333, 0.3334], "{:.2f}")] == ["3", "16 to 24", "0.33"]


@dataclass
class Row:
    name: str


def test_kinds_of_layers() -> None:
    assert kind_of("model.layers.11.self_attn.q_proj") == "q_proj"
    assert kind_of("model.layers.0.mlp.experts.7") == "experts"
    assert kind_of("7") == "7"
    kinds = by_kind([Row("h.0.q"), Row("h.0.k"), Row("h.1.q")])
    assert {kind: [row.name for row in rows] for kind, rows in kinds.items()} == {
        "q": ["h.0.q", "h.1.q"],
        "k": ["h.0.k"],
    }


def test_some_of_many() -> None:
    assert some_of("abc") == "a, b, c"
    assert some_of("abcde", 2, "; ") == "a; b and 3 more"
