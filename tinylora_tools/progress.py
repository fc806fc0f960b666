"""How long work tells that it goes on, without knowing of terminals."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of bytes as they are done; `cli` draws a bar from it. May be called from several threads."""

    def start(self, what: str, total: int) -> None:
        """A piece of work, such as "Factoring", that is `total` bytes long."""

    def advance(self, done: int) -> None:
        """`done` more bytes are done."""

    def at(self, what: str) -> None:
        """What is being worked on, such as a module's name."""


class NoProgress:
    """Tells nobody."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, done: int) -> None: ...

    def at(self, what: str) -> None: ...
