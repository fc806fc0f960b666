"""The progress bar: one line, and none of it left."""

from __future__ import annotations

import io
import re
import threading

import pytest

from tinylora_tools.cli.screens import bar
from tinylora_tools.cli.screens.bar import Bar, line
from tinylora_tools.cli.screens.words import width_of

NAME = "model.layers.11.self_attn.q_proj"


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [10, 20, 39, 40, 60, 79, 80, 119, 200])
def test_it_is_one_line_of_any_terminal(width: int) -> None:
    text = line("Merging", NAME, 450_000_000, 1_000_000_000, 3.0, width)
    assert width_of(text) <= width
    assert "\n" not in text
    assert width < 20 or " 45%" in text


def test_what_there_is_room_for() -> None:
    assert line("Merging", NAME, 45, 100, 0.1, 39) == "Merging  45%  45 bytes of 100 bytes"
    assert line("Merging", NAME, 450_000_000, 1_000_000_000, 3.0, 120) == (
        "Merging █████████░░░░░░░░░░░  45%  450 MB of 1 GB  0:04 left  150 MB/s  " + NAME
    )
    assert "100%" in line("Merging", "", 0, 0, 9.0, 80) or " 0%" in line("Merging", "", 0, 0, 9.0, 80)


def test_each_picture_replaces_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "_EVERY", 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    screen = Screen()
    drawn = Bar(screen)
    drawn.start("Merging", 100)
    drawn.at("a\nb\x1b[2J" + 20 * "x")
    drawn.advance(50)
    drawn.clear()
    drawn.clear()
    written = screen.getvalue()
    assert "\n" not in written
    assert written.count("\r\x1b[2K") == 4
    assert written.endswith("\r\x1b[2K")
    assert all(picture.endswith("\r") for picture in written.split("\r\x1b[2K")[1:-1])
    assert "a\\nb\\x1b[2J" in written


def test_threads_draw_no_mixed_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "_EVERY", 0.0)
    screen = Screen()
    drawn = Bar(screen)
    drawn.start("Merging", 4000)
    threads = [threading.Thread(target=lambda: [drawn.advance(1) for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [int(n) for n in re.findall(r"(\d+) bytes of 4000 bytes", screen.getvalue())]
    assert done == sorted(done)
    assert done[-1] == 4000
