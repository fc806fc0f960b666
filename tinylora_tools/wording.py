"""How messages name what a caller can change.

Operations mean an argument and say `argument("base", ...)`; a Python caller reads `base=...`. The command line words
the same argument as its option while it runs an operation (`cli/shell/wording.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Words(Protocol):
    """Who knows how to name arguments and functions to whoever called."""

    def argument(self, name: str) -> str:
        """The argument by its name alone: `base`."""

    def given(self, name: str, value: object) -> str:
        """The argument with a value: `dtype='float32'`; with any value where that is `...`."""

    def call(self, function: str, positional: tuple[object, ...], arguments: Mapping[str, object]) -> str:
        """A call of a public function: `verify_seed(record_to=...)`."""


class _PythonWords:
    def argument(self, name: str) -> str:
        return name

    def given(self, name: str, value: object) -> str:
        return f"{name}={_shown(value)}"

    def call(self, function: str, positional: tuple[object, ...], arguments: Mapping[str, object]) -> str:
        inside = [str(one) for one in positional] + [self.given(name, value) for name, value in arguments.items()]
        return f"tinylora_tools.{function}({', '.join(inside)})"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shown(one)}" for key, one in value.items()) + "}"
    return "..." if value is ... else repr(value)


# One for the process, not a context variable: errors are raised in threads of their own too.
_words: Words = _PythonWords()


@contextmanager
def worded_by(words: Words) -> Iterator[None]:
    """Have arguments named in other words meanwhile."""
    global _words
    before, _words = _words, words
    try:
        yield
    finally:
        _words = before


def argument(name: str, *value: object) -> str:
    """An argument of a public function, in the caller's words: alone, or with a value (`...` stands for any)."""
    return _words.given(name, value[0]) if value else _words.argument(name)


def call(function: str, *positional: object, **arguments: object) -> str:
    """A call of a public function, in the caller's words."""
    return _words.call(function, positional, arguments)
