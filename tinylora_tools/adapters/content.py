"""What a file or a directory holds: PEFT's adapter, a packed one, or one of another project."""

from __future__ import annotations

from pathlib import Path

from ..errors import FormatError, UnsupportedError
from ..formats import third_party
from ..formats.packed import Packed, as_packed, is_packed
from ..formats.peft.adapter import WEIGHTS_NAMES, PeftAdapter, adapter_in, read_adapter
from ..formats.pickled.stored import load_pickle
from ..formats.placeholders import refuse_pointer
from ..formats.safetensors_file import SafetensorsFile, read_header
from ..formats.tensors import TensorFile
from ..formats.third_party import Found
from ..formats.torch_file import torch_file_of
from ..wording import call


def content_of(path: Path) -> PeftAdapter | Packed | Found:
    """The adapter at a path, its header read; raises as `adapters.source.find_source`."""
    if path.is_dir():
        peft = any((path / name).is_file() for name in WEIGHTS_NAMES)
        return (None if peft else packed_in(path) or third_party.find(path)) or read_adapter(path)
    content = open_file(path)
    return content if isinstance(content, (Packed, Found)) else adapter_in(path, content)


def packed_in(path: Path) -> Packed | None:
    """The packed adapter that a file is, or that is the only .safetensors of a directory, as a repository has it; None
    where there is another thing."""
    weights = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(weights) != 1 or weights[0].suffix != ".safetensors" or not weights[0].is_file():
        return None
    try:
        header = read_header(weights[0], keep_open=True)
    except FormatError:  # who opens it as what it is says what is wrong with it
        return None
    return as_packed(header) if is_packed(header.metadata) else None


def open_file(path: Path) -> TensorFile | Found | Packed:
    """What is in a file that is named by itself: an adapter's or a checkpoint's tensors, a packed adapter, or one of
    another project."""
    try:
        content = read_header(path, keep_open=True) if path.suffix == ".safetensors" else load_pickle(path)
    except FormatError:
        refuse_pointer(path)
        raise
    if isinstance(content, SafetensorsFile) and is_packed(content.metadata):
        return as_packed(content)
    if (found := third_party.recognise(path, content)) is not None:
        return found
    return content if isinstance(content, SafetensorsFile) else torch_file_of(path, content)


def another_project(path: Path, dialect: str) -> UnsupportedError:
    """What to say of a third-party adapter where only PEFT's and packed ones are taken."""
    return UnsupportedError(
        f"is another project's adapter ({dialect})",
        where=path,
        hint=f"Make it PEFT's first: {call('to_peft', path, 'ADAPTER', base=...)}",
    )
