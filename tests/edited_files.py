"""Copies of the committed adapters with something changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage import edit, edit_json
from fixture_data import fixture

Tensors = dict[str, Any]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def edited_copy(
    name: str | Path, directory: Path, change: Callable[[Tensors], object] | None = None, **config: object
) -> Path:
    """A fixture's adapter, or another one, in `directory`, with other tensors and another configuration."""
    shutil.copytree(fixture(name).adapter if isinstance(name, str) else name, directory)
    if change is not None:
        edit(directory / WEIGHTS, change)
    if config:
        edit_json(directory / CONFIG, **config)
    return directory


def without_projections(tensors: Tensors) -> None:
    for key in [key for key in tensors if key.endswith("tinylora_P")]:
        del tensors[key]
