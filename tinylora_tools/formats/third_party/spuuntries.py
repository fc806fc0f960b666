"""spuuntries/tinylora: `adapter.pt` with v_0, v_1, ... and a `config.json` with rank, proj_dim, n_tie, target_modules.

delta W = U S R Vh, with U, S, Vh, P and v rounded to the weight's dtype; P = randn / sqrt(r) from the seed 42 + i, by
the module's place. n // n_tie groups, of which the last takes the rest.

Source: tinylora.py of github.com/spuuntries/tinylora, 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import FormatError, MismatchError
from ..json_file import read_object
from .adapter import Settings, ThirdPartyAdapter, is_tensor, same_size, vector_of

FILES = ("adapter.pt",)

_SEED = 42


def recognises(content: Any) -> bool:
    """Whether a pickle's content is this project's."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and re.fullmatch(r"v_\d+", k) and is_tensor(v) for k, v in content.items())
    )


class Spuuntries(ThirdPartyAdapter):
    """An adapter of spuuntries/tinylora."""

    dialect = "spuuntries"
    trained_in = "weight"

    def __init__(self, path: Path, content: Mapping[str, Any], settings: Settings) -> None:
        count = len(content)
        missing = [f"v_{i}" for i in range(count) if f"v_{i}" not in content]
        if missing:
            raise FormatError(f"lacks {missing[0]}", where=path, hint="Save the adapter again.")
        vectors = [vector_of(content[f"v_{i}"], f"v_{i}", path) for i in range(count)]
        said = self._config(path)
        super().__init__(path, said["rank"], same_size(vectors, path), vectors)
        if said["proj_dim"] != self.proj_dim:
            raise MismatchError(
                f"v has {self.proj_dim} numbers, and config.json says proj_dim={said['proj_dim']}", where=path
            )
        self.notes.append(
            "its factors are rounded to the weights' dtype: merging into a 16-bit base may find them a little off"
        )
        self._n_tie, self._targets = said["n_tie"], tuple(said["target_modules"])
        self._adapted = said.get("num_adapted")

    @staticmethod
    def _config(path: Path) -> Mapping[str, Any]:
        file = path.parent / "config.json"
        if not file.is_file():
            raise FormatError(
                "no config.json beside it, which says rank, n_tie and target_modules",
                where=path,
                hint="Put the file beside it that save_adapter wrote.",
            )
        said = read_object(file)
        for name in ("rank", "proj_dim", "n_tie"):
            if type(said.get(name)) is not int or said[name] < 1:
                raise FormatError(f"{name} is {said.get(name)!r}, expected a positive integer", where=file)
        targets = said.get("target_modules")
        if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets) or not targets:
            raise FormatError(f"target_modules is {targets!r}, expected a list of names", where=file)
        return said

    def adapts(self, name: str) -> bool:
        return name.endswith(self._targets)

    def seeds(self, names: Sequence[str]) -> list[int]:
        return [_SEED + i for i in range(len(names))]

    def groups(self, names: Sequence[str]) -> list[int]:
        """The project's groups.

        Raises
        ------
        MismatchError
            If the base has another number of modules, or of groups, than the adapter.
        """
        groups = max(1, len(names) // self._n_tie)
        if groups != len(self.vectors) or self._adapted not in (None, len(names)):
            raise MismatchError(
                f"the base's {len(names)} modules make {groups} groups of {self._n_tie}, and the adapter has "
                f"{len(self.vectors)} of {self._adapted or 'some'} modules",
                where=self.path,
                hint="Is this the base that the adapter was trained on?",
            )
        return [min(i // self._n_tie, groups - 1) for i in range(len(names))]
