"""What is in a packed adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...adapters.soundness import notes_on_packed
from ...errors import FormatError
from ...formats.packed import INDEX, VALUE, Packed, check_content
from ...sources.locate import shown


@dataclass(frozen=True, slots=True)
class PackedReport:
    """All that `tinylora inspect` says of a packed adapter. `trainable_*` count the vectors v alone; `error` is the
    largest relative error of a restored module's update, as it was measured."""

    kind: str
    path: str
    trainable_parameters: int
    trainable_bytes: int
    groups: int
    corrections: int
    correction_bytes: int
    other_bytes: int
    file_bytes: int
    error: float
    stream: str | None
    base_model: str | None
    weights: str
    config: dict[str, Any]
    warnings: list[str]


def inspect_packed(packed: Packed) -> PackedReport:
    """Describe a packed adapter from its file alone.

    Raises
    ------
    FormatError
        If its metadata are damaged, or what it holds isn't what was packed.
    """
    check_content(packed)
    tensors = packed.file.tensors
    vectors = [info for name, info in tensors.items() if name.startswith("v.")]
    corrections = [tensors[name] for name in (INDEX, VALUE) if name in tensors]
    counted = sum(info.nbytes for info in (*vectors, *corrections))
    try:
        error = float(packed.text("error"))
    except ValueError:
        raise FormatError("its metadata's 'error' isn't a number", where=packed.path, hint="Pack it again.") from None
    return PackedReport(
        kind="tinylora-packed",
        path=shown(packed.path),
        trainable_parameters=sum(info.parameters for info in vectors),
        trainable_bytes=sum(info.nbytes for info in vectors),
        groups=len(vectors),
        corrections=corrections[-1].parameters if corrections else 0,
        correction_bytes=sum(info.nbytes for info in corrections),
        other_bytes=sum(info.nbytes for info in tensors.values()) - counted,
        file_bytes=packed.file.size,
        error=error,
        stream=None if packed.numbers("P_of") else packed.stream,
        base_model=packed.config.base_model_name_or_path,
        weights=packed.text("weights"),
        config=dict(packed.config.raw),
        warnings=notes_on_packed(packed),
    )
