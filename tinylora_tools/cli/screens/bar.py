"""A progress bar in one line of a terminal, which goes away when the work is done."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from .grid import from_the_right
from .terminal import terminal_of
from .words import printable, size, width_of

#: Seconds between two pictures, and how long the bar itself is.
_EVERY, _LENGTH = 0.1, 20
_FULL, _EMPTY = "\u2588", "\u2591"
_CLEAR = "\r\x1b[2K"


class Bar:
    """A `progress.Progress` that is told of bytes, from any thread, and draws a line.

    After each picture the cursor returns to the line's beginning: what else is printed, such as a terminal's ^C,
    overwrites the bar, and no line of it is left.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._what, self._item, self._total, self._done = "", "", 0, 0
        self._began = self._drawn = 0.0
        self._shown = False

    def start(self, what: str, total: int) -> None:
        with self._lock:
            self._what, self._item, self._total, self._done = what, "", total, 0
            self._began, self._drawn = time.monotonic(), 0.0
            self._draw()

    def advance(self, done: int) -> None:
        with self._lock:
            self._done += done
            self._draw()

    def at(self, what: str) -> None:
        with self._lock:
            self._item = printable(what)
            self._draw()

    def clear(self) -> None:
        """Take the line away, until there is more to draw."""
        with self._lock:
            if self._shown:
                self._stream.write(_CLEAR)
                self._stream.flush()
            self._shown, self._drawn = False, 0.0

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._what or now - self._drawn < _EVERY:
            return
        self._drawn, self._shown = now, True
        terminal = terminal_of(self._stream)
        width = (terminal.room.width or 80) - 1
        text = line(self._what, self._item, self._done, self._total, now - self._began, width)
        self._stream.write(f"{_CLEAR}{terminal.spelled(text)}\r")
        self._stream.flush()


def line(what: str, item: str, done: int, total: int, seconds: float, width: int) -> str:
    """One picture of at most `width` columns: what doesn't fit is left out, the least important first."""
    share = min(1.0, done / total) if total else 0.0
    text = f"{what} {share:4.0%}"
    parts = [f"{size(done)} of {size(total)}"]
    if seconds >= 1.0 and done:
        left = max(0, round(seconds * (1 - share) / share)) if share else 0
        parts += [_clock(left) + " left", f"{size(round(done / seconds))}/s"]
    for part in parts:
        if width_of(text) + 2 + len(part) <= width:
            text += f"  {part}"
    if width_of(text) + 1 + _LENGTH <= width:
        filled = round(share * _LENGTH)
        text = text.replace(what, f"{what} {_FULL * filled}{_EMPTY * (_LENGTH - filled)}", 1)
    room = width - width_of(text) - 2
    return f"{text}  {from_the_right(item, room)}" if item and room >= 12 else text[:width]


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
