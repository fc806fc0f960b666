"""What a person sees at 40, 80 and 120 columns of 24 lines, and in a pipe. After a change that is meant,
`SCREENS=write pytest tests/cli/screens/test_page_snapshots.py` writes them anew: look at what differs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fixture_data import ROOT
from made_reports import MADE

from tinylora_tools.cli.screens.page import Room, page
from tinylora_tools.cli.screens.words import width_of

SHOWN = Path(__file__).parent / "shown"
ROOMS = {"40": Room(40, 24), "80": Room(80, 24), "120": Room(120, 24), "pipe": Room()}

#: Figures and verdicts, as reports have them.
FIGURES = re.compile(r"\d\.\de[-+]\d\d\b|\d+\.\d\d%|\b(?:same-weights|fine-tuned|identical|differs|DIFFERS|unknown)\b")


def shown(name: str, room: Room) -> list[str]:
    report, render, _ = MADE[name]()
    lines = page(render(report), room)
    return ["".join(span.text for span in line).rstrip() for line in lines]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", MADE)
def test_screens(name: str, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT.parent)
    text = "\n".join(shown(name, ROOMS[room])) + "\n"
    kept = SHOWN / f"{name}-{room}.txt"
    if os.environ.get("SCREENS") == "write":
        kept.write_text(text, encoding="utf-8")
    assert text == kept.read_text("utf-8")


@pytest.mark.parametrize("name", MADE)
def test_no_figure_is_cut_by_any_width(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a pipe gets, in its order, is on a terminal too, where all rows are asked for."""
    monkeypatch.chdir(ROOT.parent)
    report, render, _ = MADE[name]()
    whole = sorted(FIGURES.findall("\n".join(shown(name, Room()))))
    for width in (22, 31, 40, 57, 80, 103, 120, 200):
        lines = ["".join(span.text for span in line) for line in page(render(report), Room(width, 24), "all")]
        assert sorted(FIGURES.findall("\n".join(lines))) == whole, width
        assert all(width_of(line) <= width or len(line.split()) < 3 for line in lines), width


def test_there_is_no_snapshot_of_what_is_not_made() -> None:
    assert {path.stem for path in SHOWN.iterdir()} == {f"{name}-{room}" for name in MADE for room in ROOMS}
