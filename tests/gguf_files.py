"""GGUF files, read by the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf


def contents(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """A file's metadata, and of each tensor its type, its shape as GGUF writes it, and its bytes."""
    reader = gguf.GGUFReader(path)
    said = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    held = {
        tensor.name: (tensor.tensor_type.name, tuple(int(n) for n in tensor.shape), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return said, held
