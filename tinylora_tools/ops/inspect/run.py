"""Tell adapters from checkpoints, and describe what was named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...adapters.content import open_file, packed_in
from ...adapters.load import Adapter, ModuleOrder
from ...adapters.source import Source, adapter_of, find_source
from ...bases.base import Base, open_base
from ...errors import FormatError
from ...formats import third_party
from ...formats.checkpoint import Checkpoint, is_checkpoint
from ...formats.packed import Packed
from ...formats.peft.adapter import WEIGHTS_NAMES, find_adapter
from ...formats.peft.release import Seeding
from ...formats.third_party import Found
from ...sources.locate import locate
from ...sources.repository import names_repository
from ...wording import call

if TYPE_CHECKING:
    from .adapter import AdapterReport
    from .checkpoint import CheckpointReport
    from .packed import PackedReport
    from .third_party import ThirdPartyReport


def inspect(
    source: str | Path | Adapter | Base,
    base: str | Path | Base | None = None,
    *,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
) -> AdapterReport | PackedReport | CheckpointReport | ThirdPartyReport:
    """Describe an adapter's directory or file, or a checkpoint's, from headers and an adapter's smallest tensors.

    Parameters
    ----------
    source : path, or what is open
    base : path, optional
        Of an adapter: what tells its architecture; by default the base that it names, if that is at hand. One that is
        named and has its weights here also tells what a merge in bfloat16 would lose.
    module_order, first_adapter, seeding
        As `load_adapter`.

    Raises
    ------
    FormatError
        If it is neither, or damaged.
    """
    at = None if base is None else open_base(base, afar=True).require_model()
    found = _told_apart(source)
    if isinstance(found, Packed):
        from .packed import inspect_packed

        return inspect_packed(found)
    if isinstance(found, Found):
        from .third_party import inspect_third_party

        return inspect_third_party(found, at)
    if isinstance(found, Base):
        from .checkpoint import inspect_checkpoint

        return inspect_checkpoint(found, _beside(found.path))
    from .adapter import inspect_adapter

    opened = found.open(at, module_order=module_order, first_adapter=first_adapter, seeding=seeding)
    return inspect_adapter(opened, at)


def _told_apart(source: str | Path | Adapter | Base) -> Packed | Source | Base | Found:
    if isinstance(source, Base):
        return source
    if isinstance(source, Adapter):
        return find_source(source)
    if names_repository(source):
        base = open_base(source, afar=True)
        return base if base.afar else _in_directory(base.path)
    path = locate(source)
    return _in_directory(path) if path.is_dir() else _in_file(path)


def _in_directory(path: Path) -> Packed | Source | Base | Found:
    other = third_party.find(path, checkpoints=False)
    if other is not None and not any((path / name).is_file() for name in WEIGHTS_NAMES):
        return other
    if is_checkpoint(path):
        return Base(path)
    if find_adapter(path) is None:
        if (packed := packed_in(path)) is not None:
            return packed
        raise FormatError(
            "neither an adapter nor a checkpoint is in this directory",
            where=path,
            hint="Name the directory that save_pretrained wrote, or one of its .safetensors files.",
        )
    return find_source(path)


def _in_file(path: Path) -> Packed | Source | Base | Found:
    if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        raise FormatError(
            "not a weights file: expected the ending .safetensors or .bin",
            where=path,
            hint="Name a weights file, or the directory that holds it.",
        )
    content = open_file(path)
    if isinstance(content, Found):
        return content
    if isinstance(content, Packed):
        return content
    if (source := adapter_of(path, content)) is not None:
        return source
    if not content.tensors:
        hint = "Download or save it again: what wrote it had nothing to write, or was cut short."
        raise FormatError("holds no tensors", where=path, hint=hint)
    base = Base(path)
    base.checkpoint = Checkpoint.of_file(path, content, base.config)
    return base


def _beside(path: Path) -> list[str]:
    """A note on an adapter in a checkpoint's directory."""
    if not path.is_dir():
        return []
    beside = next((path / name for name in WEIGHTS_NAMES if (path / name).is_file()), None)
    return [] if beside is None else [f"an adapter is in this directory too: `{call('inspect', beside)}` shows it"]
