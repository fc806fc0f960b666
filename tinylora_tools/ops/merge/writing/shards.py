"""Shards that are written one by one, so that a merge that was interrupted goes on behind the last whole one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .... import __version__
from ....adapters.source import Source
from ....bases.base import Base
from ....inputs import read_input
from ....output.staging import flush
from ..planned import Settings
from ..words import OutputFile
from .tensor import BaseCheck, TensorResult

#: Behind a shard's name, for what is recorded of it.
_RECORD = ".json"


class Shards:
    """The shards in a directory that outlasts a run.

    A shard counts once its record stands beside it, which is written when the shard is on the disk. Whatever else is in
    the directory is removed.

    Parameters
    ----------
    directory : Path
    mark : str
        Of all that the shards' bytes depend on: those of another mark are removed.
    files : sequence of OutputFile
        What is to be written.
    clear : bool
        Remove the rest: before another one of several `ranks` writes there.
    """

    def __init__(self, directory: Path, mark: str, files: Sequence[OutputFile], *, clear: bool = True) -> None:
        self.directory, self._mark, self._files = directory, mark, files
        self.done = {file.name: found for file in files if (found := self._recorded(file)) is not None}
        if not clear:
            return
        kept = {directory / (name + end) for name in self.done for end in ("", _RECORD)}
        for path in [path for path in directory.rglob("*") if path.is_file() and path not in kept]:
            path.unlink()

    def as_they_are(self) -> Shards:
        """The same directory, with what others put there."""
        return Shards(self.directory, self._mark, self._files, clear=False)

    def keep(self, file: OutputFile, results: Sequence[TensorResult]) -> None:
        """Record a shard that was written."""
        path = self.directory / file.name
        flush(path)
        record = path.with_name(path.name + _RECORD)
        text = json.dumps({"mark": self._mark, "results": [_as_json(one) for one in results]})
        record.with_name(record.name + ".new").write_text(text, "utf-8")
        record.with_name(record.name + ".new").replace(record)

    def move_to(self, output: Path, files: Sequence[OutputFile]) -> None:
        """Give the shards, which are all there, their places in the output."""
        for file in files:
            path = output / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            (self.directory / file.name).rename(path)

    def _recorded(self, file: OutputFile) -> list[TensorResult] | None:
        """What became of a shard's tensors in an earlier run; None where it has to be written."""
        path = self.directory / file.name
        try:
            record = json.loads(path.with_name(path.name + _RECORD).read_text("utf-8"))
            if record["mark"] != self._mark or path.stat().st_size != file.size:
                return None
            return [_from_json(said, file) for said in record["results"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def mark_of(base: Base, sources: Sequence[Source], settings: Settings, *, check: bool) -> str:
    """sha256 of all that a merge's bytes and its report come from; the base is one at a commit, or files that are as
    they were."""
    digest = hashlib.sha256(f"{__version__} {base.source} {check} {json.dumps(asdict(settings))}".encode())
    if not base.afar:
        states = [shard.path.stat() for shard in base.checkpoint.shards]
        digest.update(json.dumps([(state.st_size, state.st_mtime_ns) for state in states]).encode())
    for source in sources:
        for path in _files(source.path):
            digest.update(hashlib.sha256(path.name.encode()).digest() + hashlib.sha256(read_input(path)).digest())
    return digest.hexdigest()


def _files(adapter: Path) -> Iterable[Path]:
    """Those of a directory, or of the directory of a file: what stands beside it tells its settings."""
    directory = adapter if adapter.is_dir() else adapter.parent
    beside = [path for path in sorted(directory.glob("*.json")) if path.is_file()]
    weights = [path for path in sorted(adapter.glob("*")) if path.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    return [*beside, *(weights if adapter.is_dir() else [adapter])]


def _as_json(result: TensorResult) -> dict[str, Any]:
    checks = [[check.rho, check.factors_dtype, check.base_dtype] for check in result.checks]
    figures = {"delta": result.delta, "error": result.error, "weight": result.weight}
    return {"tensor": result.tensor, **figures, "checks": checks}


def _from_json(said: dict[str, Any], file: OutputFile) -> TensorResult:
    updates = next(outcome.updates for info, outcome in file.tensors if info.name == said["tensor"])
    checks = tuple(BaseCheck(update, *check) for update, check in zip(updates, said["checks"], strict=False))
    return TensorResult(said["tensor"], updates, said["delta"], said["error"], said["weight"], checks)
