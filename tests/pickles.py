"""What `torch.save` writes, as the package reads it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from tinylora_tools.formats.pickled.stored import load_pickle


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def pickled(content: Any, directory: Path | None = None) -> Any:
    """The content as it comes back; values of its tensors only where `directory` keeps the file."""
    if directory is not None:
        return load_pickle(saved(directory / "pickled.pt", content))
    with tempfile.TemporaryDirectory() as temporary:
        return load_pickle(saved(Path(temporary) / "pickled.pt", content))
