"""Names of parameters in a model to those of the tensors that transformers saves them as, and back.

The data write them as beginnings of names: the longest that fits says what it becomes, and what no beginning fits keeps
its name. `{"model.language_model": "language_model.model"}` renames all that a text model inside another has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .layout import filled, generalised


class Renaming:
    """One class's renaming."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._rules = dict(rules)

    @property
    def by_number(self) -> bool:
        """Whether some names are listed with their numbers, so that one of them doesn't tell what its like become."""
        return any(part.isdigit() for rule in self._rules.items() for name in rule for part in name.split("."))

    def stored(self, parameter: str) -> str:
        """What save_pretrained calls a parameter."""
        for name in (parameter, generalised(parameter)):  # a few are listed with their numbers
            parts = name.split(".")
            for depth in range(len(parts), -1, -1):
                to = self._rules.get(".".join(parts[:depth]))
                if to is not None:
                    return filled(".".join(part for part in (to, *parts[depth:]) if part), parameter)
        return parameter

    def parameters(self, key: str) -> list[str]:
        """The parameters that are saved under a name: by a rule, else by keeping it."""
        found = dict.fromkeys(name for name in self._backwards(key) if self.stored(name) == key)
        return list(found) or ([key] if self.stored(key) == key else [])

    def _backwards(self, key: str) -> Iterator[str]:
        parts = generalised(key).split(".")
        for beginning, to in self._rules.items():
            became = to.split(".") if to else []
            if parts[: len(became)] == generalised(to).split(".") or not to:
                yield filled(".".join(part for part in (beginning, *parts[len(became) :]) if part), key)
