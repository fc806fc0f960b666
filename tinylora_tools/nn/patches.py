"""Methods of others' classes, replaced while anyone wants it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

#: A class, the name of one of its methods, its own or inherited, and what makes another of the method as it is stored.
Replacement = tuple[type, str, Callable[[Any], Any]]


class Patches:
    """Replaces methods when the first enters, and puts them back when the last leaves, from whichever threads.

    All threads see the methods that are in place: it is these that tell whom they serve.
    """

    def __init__(self, replacements: Callable[[], list[Replacement]]) -> None:
        self._replacements = replacements
        self._lock = threading.Lock()
        self._inside = 0
        self._replaced: list[tuple[type, str, Any, Any]] = []

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._replace()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()

    def _replace(self) -> None:
        for owner, name, wrapped in self._replacements():
            ours = wrapped(inspect.getattr_static(owner, name))
            self._replaced.append((owner, name, vars(owner).get(name), ours))
            setattr(owner, name, ours)

    def _restore(self) -> None:
        for owner, name, original, ours in self._replaced:
            if vars(owner).get(name) is not ours:
                continue  # replaced again, by someone else, who may call it still
            if original is None:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self._replaced.clear()
