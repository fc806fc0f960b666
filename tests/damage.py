"""Files as something damaged them, and whether a command left them alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tinylora_tools.formats.digests import KEY


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a safetensors file in place."""
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON object's file in place."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_digests(path: Path) -> bytes:
    """A file's bytes as the reference writes its tensors and metadata, but for the digests that are among those."""
    with safe_open(path, "pt") as file:
        metadata = {key: text for key, text in file.metadata().items() if key != KEY}
    return safetensors.torch.save(safetensors.torch.load_file(path), metadata)
