"""The regular expressions of a configuration, which may come from anybody: matched as PEFT matches them, by `re`, but
not for ever.

Backtracking takes time that is exponential in a name's length where repetitions stand in one another, as in `(.+)+X`.
Nothing short of trying tells which of them do, and an engine of our own that never backtracks might, somewhere, match
otherwise than PEFT does. So `re` does it, and a timer of the process interrupts it: `re` heeds signals. Signals reach
the main thread only, so elsewhere, and where there are no such timers, nothing ends it.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from ...errors import FormatError, UnsupportedError

#: Seconds of computing that the slow names of an expression may take together, and the time from which one is slow.
PATIENCE, _SLOW = 1.0, 1e-3

#: No group is repeated, and nothing refers to one: then the time is a polynomial of the number of repetitions, and with
#: two of them milliseconds for the longest name.
_REPEATED = re.compile(r"\)[*+?{]|\\[1-9]|\(\?[P(]")
_REPETITIONS = re.compile(r"[*+{]")
_FEW = 2


class SlowExpressionError(UnsupportedError):
    """An expression takes longer than anybody waits."""


class Expression:
    """A regular expression, compiled, and how long it may still take."""

    def __init__(self, text: str) -> None:
        self._compiled = re.compile(text)
        self._quick = not _REPEATED.search(text) and len(_REPETITIONS.findall(text)) <= _FEW
        self._left = PATIENCE

    def fullmatch(self, name: str) -> re.Match[str] | None:
        """As `re.fullmatch`; SlowExpressionError where it takes too long."""
        return self._match(self._compiled.fullmatch, name)

    def match(self, name: str) -> re.Match[str] | None:
        """As `re.match`; raises as `fullmatch`."""
        return self._match(self._compiled.match, name)

    def _match(self, match: Callable[[str], re.Match[str] | None], name: str) -> re.Match[str] | None:
        if self._quick:
            return match(name)
        with self._limited(name):
            return match(name)

    @contextmanager
    def _limited(self, name: str) -> Iterator[None]:
        def give_up(*_: object) -> None:
            raise SlowExpressionError(
                f"the expression {self._compiled.pattern!r} takes too long to match {name}: over {PATIENCE:g} s",
                hint="Write it without repetitions in one another, such as (a+)+.",
            )

        try:
            before = signal.signal(signal.SIGVTALRM, give_up)
        except (AttributeError, ValueError):  # there is no such signal, or this isn't the main thread
            yield
            return
        started, timer = time.thread_time(), signal.setitimer(signal.ITIMER_VIRTUAL, self._left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
            signal.signal(signal.SIGVTALRM, signal.SIG_DFL if before is None else before)
            spent = time.thread_time() - started  # the timer itself counts in ticks of the system
            if spent > _SLOW:
                self._left = max(self._left - spent, _SLOW)


def expression(text: str, field: str | None = None) -> Expression:
    """The expression that a text is, which a field of the configuration names.

    Raises
    ------
    FormatError
        If it is none.
    """
    try:
        return _compiled(text)
    except (re.error, OverflowError, RecursionError) as error:
        what = (
            f"{text!r} is no regular expression" if field is None else f"{field} names {text!r}, which is no expression"
        )
        raise FormatError(f"{what}: {error}") from None


_compiled = lru_cache(maxsize=256)(Expression)
