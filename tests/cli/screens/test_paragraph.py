"""Text wrapped at words, with hanging indents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tinylora_tools.cli.screens.paragraph import Span, labelled, paragraph, wrap
from tinylora_tools.cli.screens.words import width_of

WORDS = st.lists(st.text("abc模.", min_size=1, max_size=12), min_size=1, max_size=40).map(" ".join)


@given(WORDS, st.integers(1, 200), st.integers(0, 30), st.integers(0, 30))
def test_wrapping_keeps_every_word_whole(text: str, width: int, first: int, hang: int) -> None:
    lines = list(wrap(text, width, first, hang))
    assert " ".join(" ".join(lines).split()) == text
    for number, line in enumerate(lines):
        fits = width_of(line) + (0 if number else first) <= width
        assert fits or len(line.split()) == 1
    assert all(line.startswith(" " * min(hang, max(0, width - 20))) for line in lines[1:])


def test_without_a_width_nothing_is_wrapped() -> None:
    assert list(wrap("word " * 100 + "end", None)) == ["word " * 100 + "end"]
    assert list(wrap("", 40)) == [""]


def test_indents_hang() -> None:
    lines = [line for ((line, *_),) in paragraph("one two three four five", 22, indent=2, hang=2)]
    assert lines == ["  one two three four", "  five"]
    lines = [line for ((line, *_),) in paragraph("one two three four five", 24, indent=2, hang=2)]
    assert lines == ["  one two three four", "    five"]


def shown(label: str, text: str, width: int | None) -> list[str]:
    return ["".join(span.text for span in line) for line in labelled(Span(label), text, width, len(label))]


def test_labels() -> None:
    assert shown("  Base  ", "a b", None) == ["  Base  a b"]
    assert shown("  Base  ", "one two three four five six", 30) == ["  Base  one two three four", "        five six"]
    assert shown("Wrote  ", "/a/path/longer/than/fits/beside", 36) == ["Wrote", "  /a/path/longer/than/fits/beside"]


def test_lines_of_others_are_no_lines_of_ours() -> None:
    assert shown("error: ", "a\nnext: b", 80) == ["error: a\\nnext: b"]
