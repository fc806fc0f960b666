"""The modules of a model class and their order, as the data on families write them: one tree of names.

    model(embed_tokens:E layers.*(self_attn(q_proj k_proj v_proj o_proj) mlp(gate_proj up_proj down_proj))) lm_head

Children stand in brackets, in the order of named_modules(); `*` is any number; a name without a mark is a Linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import pairwise

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_WORD = re.compile(r"[() ]|[^() ]+")

#: What a letter in the tree says of a module. A small one does more than its kind: its forward doesn't only multiply
#: by the weight, or look it up, and add a bias, or the module around it takes its weight and doesn't call it.
KINDS = {"L": "Linear", "C": "Conv1D", "E": "Embedding", "l": "Linear", "c": "Conv1D", "e": "Embedding"}


@lru_cache(maxsize=1 << 14)  # a model's names are looked at many times, and there are some hundreds
def generalised(name: str) -> str:
    """A name with its numbers replaced by `*`."""
    return _NUMBER.sub("*", name)


def filled(pattern: str, name: str) -> str:
    """A pattern with its `*` replaced by the numbers in a name; those that it has no number for stay."""
    numbers = iter(_NUMBER.findall(name))
    return ".".join(next(numbers, part) if part == "*" else part for part in pattern.split("."))


class Layout:
    """A class's modules.

    Attributes
    ----------
    letters : dict
        Each module's pattern to its letter (see `KINDS`), in named_modules() order.
    """

    def __init__(self, text: str) -> None:
        self.letters: dict[str, str] = dict(_leaves(text))

    def __contains__(self, pattern: object) -> bool:
        return pattern in self.letters

    @cached_property
    def _rank(self) -> dict[str, int]:
        rank: dict[str, int] = {}
        for pattern in self.letters:  # depth first: so a path's first leaf tells its rank among its siblings
            parts = pattern.split(".")
            for depth in range(1, len(parts) + 1):
                rank.setdefault(".".join(parts[:depth]), len(rank))
        return rank

    def sort_key(self, module: str) -> tuple[tuple[int, int], ...]:
        """Each step's rank among its siblings, and its number: `layers.2` comes before `layers.10`."""
        parts = module.split(".")
        paths = generalised(module).split(".")
        return tuple(
            (self._rank[".".join(paths[: depth + 1])], int(part) if part.isdigit() else 0)
            for depth, part in enumerate(parts)
        )


def _leaves(text: str) -> Iterator[tuple[str, str]]:
    """Patterns and letters, depth first."""
    parents = [""]
    last = ""
    for word, following in pairwise([*_WORD.findall(text), ""]):
        if word == "(":
            parents.append(last + ".")
        elif word == ")":
            parents.pop()
        elif word != " ":
            name, mark, letter = word.partition(":")
            last = parents[-1] + name
            if mark or following != "(":
                yield last, letter or "L"
