"""Packed adapters for tests: what is restored of one, and copies with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fixture_data import Fixture
from safetensors.torch import load_file, save_file

from tinylora_tools.adapters.source import find_source
from tinylora_tools.bases.base import open_base
from tinylora_tools.formats.packed import CONTENT, content_mark
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.formats.safetensors_file import build_header, read_header


def values(adapter: Path) -> dict[str, np.ndarray[Any, Any]]:
    read = read_adapter(adapter)
    leaked = {key for modules in read.leaked.values() for keys in modules.values() for key in keys}
    return {name: read.file.read(name) for name in read.file.tensors if name not in leaked}


def restored(path: Path, base: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    header = find_source(path).open(open_base(base)).header
    return {name: header.file.read(name) for name in header.file.tensors}, dict(header.config.raw)


def edited_adapter(case: Fixture, directory: Path, change: Callable[[dict[str, Any]], None], **config: Any) -> Path:
    """A copy of a fixture's adapter with other tensors and another configuration."""
    shutil.copytree(case.adapter, directory)
    state = load_file(directory / "adapter_model.safetensors")
    change(state)
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    said = json.loads((directory / "adapter_config.json").read_text()) | config
    (directory / "adapter_config.json").write_text(json.dumps(said))
    return directory


def edited(path: Path, *, marked: bool = True, **changes: str | None) -> Path:
    """A copy of a file with other metadata; `marked` with the digest of what it holds now, for what is checked next."""
    file = read_header(path)
    metadata = {k: v for k, v in {**file.metadata, **changes}.items() if v is not None}
    if marked and CONTENT not in changes:
        metadata[CONTENT] = content_mark(metadata, file.tensors, file.read)
    infos = list(file.tensors.values())
    header, _ = build_header([(i.name, i.dtype, i.shape) for i in infos], metadata)
    target = path.with_name("edited.safetensors")
    target.write_bytes(header + b"".join(file.read(i.name).tobytes() for i in infos))
    return target


def tampered(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a file with other tensors."""
    state = load_file(path)
    change(state)
    target = path.with_name("tampered.safetensors")
    save_file(state, target, dict(read_header(path).metadata))
    return target
