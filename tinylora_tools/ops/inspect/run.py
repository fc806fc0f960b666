"""Tell adapters from checkpoints, and describe what was named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...adapters.load import config_of_base
from ...adapters.source import refuse_foreign
from ...errors import FormatError
from ...formats.checkpoint import is_checkpoint, read_tensor_file
from ...formats.packed import packed_at
from ...formats.peft_adapter import WEIGHTS_NAMES, find_adapter, is_adapter
from .adapter import AdapterReport, inspect_adapter
from .checkpoint import CheckpointReport, inspect_checkpoint
from .packed import PackedReport, inspect_packed


def inspect(
    source: Path, *, base: Path | None = None, module_order: Sequence[str] | None = None
) -> AdapterReport | PackedReport | CheckpointReport:
    """Describe an adapter's directory or file, or a checkpoint's.

    Raises
    ------
    FormatError
        If it is neither.
    """
    refuse_foreign(source)
    if source.is_dir():
        adapter = find_adapter(source) is not None and not is_checkpoint(source)
        if not adapter and not is_checkpoint(source):
            raise FormatError(
                "neither an adapter nor a checkpoint is in this directory",
                where=source,
                hint="Name the directory that save_pretrained wrote, or one of its .safetensors files.",
            )
    else:
        packed = packed_at(source)
        if packed is not None:
            return inspect_packed(packed)
        adapter = _is_adapter_file(source)
    if not adapter:
        report = inspect_checkpoint(source)
        beside = next((source / name for name in WEIGHTS_NAMES if (source / name).is_file()), None)
        if beside is not None:
            report.warnings.append(f"an adapter is in this directory too: `tinylora inspect {beside}` shows it")
        return report
    return inspect_adapter(source, base_config=config_of_base(base), module_order=module_order)


def _is_adapter_file(path: Path) -> bool:
    if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        raise FormatError(
            "not a weights file: expected the ending .safetensors or .bin",
            where=path,
            hint="Name a weights file, or the directory that holds it.",
        )
    return is_adapter(read_tensor_file(path).tensors)
