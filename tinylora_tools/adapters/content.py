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
        return (None if peft else third_party.find(path)) or read_adapter(path)
    content = open_file(path)
    return content if isinstance(content, (Packed, Found)) else adapter_in(path, content)


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
