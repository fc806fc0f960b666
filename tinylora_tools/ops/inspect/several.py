"""Several adapters and checkpoints, with a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import TinyLoraError
from .adapter import AdapterReport
from .checkpoint import CheckpointReport
from .packed import PackedReport
from .run import inspect
from .third_party import ThirdPartyReport

Report = AdapterReport | PackedReport | CheckpointReport | ThirdPartyReport


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One source. Of an adapter, `parameters` are those that are trained, of a checkpoint all; `error` says why there
    is no report."""

    source: str
    kind: str | None
    parameters: int | None
    groups: int | None
    bytes: int | None
    error: str | None
    report: Report | None


@dataclass(frozen=True, slots=True)
class SeveralReport:
    """What `tinylora inspect` says of several sources; `ok` where all could be read."""

    ok: bool
    sources: list[SourceRow]
    warnings: list[str]


def inspect_several(sources: Sequence[str | Path], base: str | Path | None = None, **told: Any) -> SeveralReport:
    """Describe each source as `inspect` does. One that can't be read says so in its row, and the others are shown."""
    rows = [_row(source, base, told) for source in sources]
    warnings = [f"{row.source}: {text}" for row in rows if row.report for text in row.report.warnings]
    return SeveralReport(all(row.error is None for row in rows), rows, warnings)


def _row(source: str | Path, base: str | Path | None, told: dict[str, Any]) -> SourceRow:
    try:
        report = inspect(source, base, **told)
    except (TinyLoraError, OSError) as error:
        said = error.what if isinstance(error, TinyLoraError) else error.strerror or str(error)
        return SourceRow(str(source), None, None, None, None, said, None)
    parameters = report.parameters if isinstance(report, CheckpointReport) else report.trainable_parameters
    groups = None if isinstance(report, CheckpointReport) else report.groups
    stored = None if isinstance(report, ThirdPartyReport) else report.file_bytes
    return SourceRow(str(source), report.kind, parameters, groups, stored, None, report)
