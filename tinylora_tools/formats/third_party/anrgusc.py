"""ANRGUSC/TinyLoRA: `adapter_state.pt`, a state dict of v alone, one for each group, under its first module's name.

delta W = (alpha / u) U S R Vh from a float32 decomposition; P = randn / sqrt(r) in float32, from the seed
seed + int(sha256(name)[:8], 16) % 100000. r, alpha and how groups are made stand in no file; the seed and the base do,
in the `manifest.json` beside it.

Source: tinylora/adapter.py and scripts/train_grpo_tinylora.py of github.com/ANRGUSC/TinyLoRA, 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import MismatchError
from ..json_file import read_object
from .adapter import LINEAR_LAYERS, Settings, ThirdPartyAdapter, is_tensor, same_size, vector_of

FILES = ("adapter_state.pt",)

_TIE_MODES = ("none", "all", "tiled", "structured")


def recognises(content: Any) -> bool:
    """Whether a pickle's content is this project's."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and k.endswith(".v") and is_tensor(v) for k, v in content.items())
    )


class Anrgusc(ThirdPartyAdapter):
    """An adapter of ANRGUSC/TinyLoRA."""

    dialect = "anrgusc"

    def __init__(self, path: Path, content: Mapping[str, Any], settings: Settings) -> None:
        self._first = {name.removesuffix(".v"): vector_of(v, name, path) for name, v in content.items()}
        vectors = list(self._first.values())
        super().__init__(
            path, settings.positive("rank", "it is frozen_rank, 2 by the project's default"),
            same_size(vectors, path), vectors,
        )  # fmt: skip
        said = _manifest(path)
        self._alpha = settings.number("alpha", "it scales the update by alpha / u, and is 1.0 by the project's default")
        self._mode = settings.text(
            "tie_mode", "one of none, all, tiled and structured; tiled by the project's default", among=_TIE_MODES
        )
        self._factor = 1
        if self._mode in ("tiled", "structured"):
            self._factor = settings.positive("tie_factor", "how many modules share a vector")
        seed = said.get("seed")
        self._seed = settings.integer(
            "seed", "13 by the project's default", seed if type(seed) is int else None
        )  # fmt: skip
        self._targets = settings.names("target_modules", "the last parts of names", LINEAR_LAYERS)
        name = said.get("model_name")
        self.base_model = name if isinstance(name, str) else None

    def adapts(self, name: str) -> bool:
        return name.rpartition(".")[2] in self._targets

    def seeds(self, names: Sequence[str]) -> list[int]:
        import hashlib

        return [self._seed + int(hashlib.sha256(n.encode()).hexdigest()[:8], 16) % 100_000 for n in names]

    def scale(self, name: str) -> float:
        return self._alpha / self.proj_dim

    def groups(self, names: Sequence[str]) -> list[int]:
        """The project's groups, checked against the names that the vectors are stored under.

        Raises
        ------
        MismatchError
            If other modules than those come first in their groups.
        """
        groups = _groups(names, self._mode, self._factor)
        first: dict[int, str] = {}
        for name, group in zip(names, groups, strict=True):
            first.setdefault(group, name)
        if set(first.values()) != self._first.keys():
            fitting = _fitting(names, self._first.keys())
            raise MismatchError(
                f"tie_mode={self._mode} with tie_factor={self._factor} makes {len(first)} groups of the base's "
                f"{len(names)} modules, and other ones than the {len(self._first)} vectors are of",
                where=self.path,
                hint=f"These would fit: {'; '.join(fitting)}."
                if fitting
                else "Is this the base that the adapter was trained on, and are target_modules right?",
            )
        place = {name: i for i, name in enumerate(self._first)}
        return [place[first[group]] for group in groups]


def _manifest(path: Path) -> Mapping[str, Any]:
    """What the training run wrote of itself beside the checkpoint."""
    manifest = path.parent / "manifest.json"
    said = read_object(manifest).get("metadata") if manifest.is_file() else None
    return said if isinstance(said, dict) else {}


def _groups(names: Sequence[str], mode: str, factor: int) -> list[int]:
    if mode == "none":
        return list(range(len(names)))
    if mode == "all":
        return [0] * len(names)
    kinds = [""] if mode == "tiled" else sorted({_kind(name) for name in names})
    found, start = {}, 0
    for kind in kinds:
        tile = sorted((n for n in names if kind in ("", _kind(n))), key=lambda n: (_layer(n), n))
        found.update({name: start + i // factor for i, name in enumerate(tile)})
        start += -(-len(tile) // factor)
    return [found[name] for name in names]


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _layer(name: str) -> int:
    """The first part of a name that is a number, or else the first number in it."""
    whole = next((part for part in name.split(".") if part.isdigit()), None)
    part = re.search(r"\d+", name)
    return int(whole) if whole else int(part[0]) if part else -1


def _fitting(names: Sequence[str], wanted: Any) -> list[str]:
    """Settings whose groups begin with just the modules that are wanted."""
    found = []
    for mode, factor in [("none", 1), ("all", 1), *((m, f) for m in _TIE_MODES[2:] for f in range(2, len(names) + 1))]:
        first: dict[int, str] = {}
        for name, group in zip(names, _groups(names, mode, factor), strict=True):
            first.setdefault(group, name)
        if set(first.values()) == set(wanted):
            found.append(f"tie_mode={mode}" + (f" tie_factor={factor}" if mode in _TIE_MODES[2:] else ""))
    return found[:4]
