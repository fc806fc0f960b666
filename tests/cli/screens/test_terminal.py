"""What a stream leads to, in odd environments too."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest

from tinylora_tools.cli.screens.paragraph import Span
from tinylora_tools.cli.screens.terminal import print_lines, shade, terminal_of

SETTINGS = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES")


class Screen(io.StringIO):
    """A terminal that doesn't know its size."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("settings", "in_terminal", "in_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_colours(
    environment: pytest.MonkeyPatch, settings: Mapping[str, str], in_terminal: bool, in_pipe: bool
) -> None:
    for name, value in settings.items():
        environment.setenv(name, value)
    assert (terminal_of(Screen()).colour, terminal_of(io.StringIO()).colour) == (in_terminal, in_pipe)
    assert terminal_of(Screen()).cursor == ("TERM" not in settings)


def test_sizes(environment: pytest.MonkeyPatch) -> None:
    assert terminal_of(Screen()).room.width == 80
    assert terminal_of(io.StringIO()).room.width is None
    for said, width in (("120", 120), ("3", 20), ("wide", 80), ("0", 80), ("-1", 80)):
        environment.setenv("COLUMNS", said)
        environment.setenv("LINES", "30")
        room = terminal_of(Screen()).room
        assert (room.width, room.height) == (width, 30)
        assert terminal_of(io.StringIO()).room.width is None


def test_encodings() -> None:
    shown = "\u2500\u2500 \u2588\u2584\u2581 \u2591"
    assert terminal_of(io.TextIOWrapper(io.BytesIO(), "ascii")).spelled(shown) == "-- 841 ."
    assert terminal_of(io.TextIOWrapper(io.BytesIO(), "latin-1")).spelled(shown) == "-- 841 ."
    assert terminal_of(io.TextIOWrapper(io.BytesIO(), "utf-8")).spelled(shown) == shown


def test_looks(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [(Span("plain "), Span("good", "good"), Span("hot", "", 1.0))]
    print_lines(lines)
    assert capsys.readouterr().out == "plain goodhot\n"
    environment.setenv("FORCE_COLOR", "1")
    print_lines(lines, err=True)
    assert capsys.readouterr().err == "plain \x1b[32m\x1b[1mgood\x1b[0m\x1b[30m\x1b[48;5;202mhot\x1b[0m\n"


def test_shades() -> None:
    assert [shade(share) for share in (0.0, 0.05, 0.2, 0.5, 1.0, 7.0)] == [None, None, 230, 223, 202, 202]
