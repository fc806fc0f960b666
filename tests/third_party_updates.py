"""Updates of third-party adapters that were made PEFT's, as several tests compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_projects as projects
import numpy as np
from fixture_data import ROOT

from tinylora_tools.adapters.source import load_adapter

Array = np.ndarray[Any, Any]

BASES = {"qwen2-bf16": ROOT / "bases" / "qwen2-bf16", "llama-fp32": ROOT / "bases" / "llama-fp32"}
QWEN2 = BASES["qwen2-bf16"]


def converted(directory: Path) -> dict[str, Array]:
    """Updates of a PEFT adapter, in float64, by PEFT's definition: groups by place, B (sum v_i P_i) A."""
    loaded = load_adapter(directory)
    group = loaded.numbering.group
    assert group is not None
    file = loaded.header.file
    found = {}
    for name, parts in loaded.header.modules.items():
        assert parts.P is not None
        A, B, P = (file.read(info.name).astype(np.float64) for info in (parts.A, parts.B, parts.P))
        v = file.read(f"base_model.tinylora_v.{group[name]}").astype(np.float64)
        found[name] = B @ np.einsum("i,ijk->jk", v, P) @ A
    return found


def near(found: dict[str, Array], wanted: dict[str, Array], bound: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, update in wanted.items():
        assert np.linalg.norm(update) > 0
        assert np.linalg.norm(found[name] - update) <= bound * np.linalg.norm(update), name


def options(dialect: str, directory: Path) -> list[str]:
    return [part.replace("OUT", str(directory)) for part in projects.PROJECTS[dialect][1]]
