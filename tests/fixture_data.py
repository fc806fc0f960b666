"""The committed fixtures, as tests want them: paths, facts, and what PEFT's live modules held."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.safetensors_file import read_header

ROOT = Path(__file__).parent.parent / "fixtures"


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a checkpoint's directory, or of a file, by name."""
    checkpoint = read_checkpoint(path)
    return {name: checkpoint.shards[shard].read(name) for name, shard in checkpoint.shard_of.items()}


@dataclass(frozen=True)
class Fixture:
    """One adapter, its base, PEFT's merge of it, and PEFT's live modules."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.directory / "live.json").read_text())
        return facts

    @property
    def adapter(self) -> Path:
        return self.directory / str(self.facts["adapter"])

    @property
    def base(self) -> Path:
        return ROOT / "bases" / str(self.facts["base"])

    @property
    def merged(self) -> Path:
        return self.directory / "merged"

    @property
    def modules(self) -> list[dict[str, Any]]:
        """In named_modules() order, with group and kind."""
        modules: list[dict[str, Any]] = self.facts["modules"]
        return modules

    @property
    def modules_by_name(self) -> dict[str, dict[str, Any]]:
        return {module["name"]: module for module in self.modules}

    @cached_property
    def live(self) -> dict[str, np.ndarray[Any, Any]]:
        file = read_header(self.directory / "live.safetensors")
        return {name: file.read(name) for name in file.tensors}

    def delta(self, module: str) -> np.ndarray[Any, Any]:
        """B R A (out, in) in float64, from the live module's factors."""
        A, B, P, v = (self.live[f"{module}.{part}"].astype(np.float64) for part in "ABPv")
        return B @ np.einsum("i,ijk->jk", v, P) @ A


def fixture(name: str) -> Fixture:
    return Fixture(ROOT / name)


FIXTURES = [Fixture(path.parent) for path in sorted(ROOT.glob("*/live.json"))]
#: Those whose P can be had.
MERGEABLE = [f for f in FIXTURES if f.name != "peft019-seed-only"]
