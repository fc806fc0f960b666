"""A merged model against what was recorded as it was made, and against what base and adapters give again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ... import __version__
from ...adapters.load import Adapter
from ...adapters.source import find_sources
from ...bases.architectures.families import given_mark
from ...bases.base import Base, open_base
from ...checks import at_least
from ...core.block_sum import NumpyBlockAdder
from ...errors import FormatError, MismatchError, UndeterminedError
from ...formats.checkpoint import Checkpoint, read_checkpoint
from ...formats.memory_file import MemoryFile
from ...formats.peft.config import CONFIG_NAME
from ...formats.tensors import TensorFile, TensorInfo
from ...output.manifest import (
    NAME,
    Contents,
    Manifest,
    contents_of,
    different,
    files_in,
    read_manifest,
    write_manifest,
)
from ...progress import NoProgress, Progress
from ...sources.locate import locate
from ...wording import argument, call
from ...workers import Workers
from ..opened import AdapterLike
from .planned import Settings, planned
from .words import Outcome
from .writing.digest import tensor_data
from .writing.write import BLOCK_ELEMENTS, Buffers


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that isn't as it was recorded: of the "output", the "base" or an adapter (its name); a file's path or a
    tensor's name; and how it differs."""

    part: str
    name: str
    what: str


@dataclass(frozen=True, slots=True)
class OutputReport:
    """What is known of a merged model. `base` and `adapters` say whether they were looked at; `recomputed` counts
    tensors that were formed again from them."""

    output: str
    ok: bool
    files: int
    tensors: int
    base: bool
    adapters: bool
    recomputed: int
    differences: list[Difference]
    warnings: list[str]


def verify_output(
    output: str | Path,
    adapters: Sequence[AdapterLike] | AdapterLike | None = None,
    base: str | Path | Base | None = None,
    *,
    sample: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Check a merged model's files and tensors by its manifest, which `merge` writes when it is asked to.

    Parameters
    ----------
    output : path
        The merged model's directory.
    adapters : path, open adapter, or a sequence of them, optional
        The ones that were merged, in that order: they are checked too, and the output is formed again.
    base : path, optional
        The base that they were merged into: it is checked too. With adapters, the one that they name by default.
    sample : int, optional
        Form only so many of the tensors again, evenly over the model.
    threads : int, optional
    progress : Progress, optional

    Raises
    ------
    FormatError
        If there is no manifest, or it is damaged.
    TinyLoraError
        For a base or adapters that can't be opened.
    """
    at_least("threads", threads, 1)
    at_least("sample", sample, 1)
    directory = locate(output)
    manifest, sources = read_manifest(directory), find_sources(adapters) if adapters is not None else []
    at = open_base(base).require_directory() if base is not None else sources[0].named_base if sources else None
    if sources and (at is None or at.is_partial):
        raise UndeterminedError(
            "the base isn't at hand", where=sources[0].path, hint=f"Name it: {argument('base', ...)}."
        )
    if sources and len(sources) != len(manifest.adapters):
        what = f"{len(manifest.adapters)} adapters were merged, and {len(sources)} are named"
        raise MismatchError(what, where=directory / NAME, hint="Name them all, in their order.")
    count = threads or 2
    notes: list[str] = []
    with Workers(count) as pool:
        found = _of_output(directory, manifest.output, pool)
        if at is not None:
            found += _differences("base", manifest.base, _of_base(manifest.base.name, at, pool))
        recomputed = 0
        if sources and at is not None:
            settings = _settings(manifest, directory)
            opened, plan, _ = planned(
                at, sources, settings, threads=threads, keep_weights=True, progress=progress or NoProgress()
            )
            for adapter, recorded in zip(opened, manifest.adapters, strict=True):
                found += _differences(recorded.name, recorded, _of_adapter(recorded.name, adapter, pool))
            if any(one.part != "output" for one in found):
                notes.append("nothing was formed again: the base or an adapter isn't what was merged")
            else:
                every = [tensor for file in plan.files for tensor in file.tensors]
                chosen = every if sample is None else every[:: max(1, len(every) // sample)][:sample]
                found += _formed_again(chosen, manifest.output.tensors, pool, count)
                recomputed = len(chosen)
    recorded_files, recorded_tensors = manifest.output.files, manifest.output.tensors
    return OutputReport(
        output=str(output),
        ok=not found,
        files=len(recorded_files),
        tensors=len(recorded_tensors),
        base=at is not None,
        adapters=bool(sources),
        recomputed=recomputed,
        differences=found,
        warnings=notes,
    )


def record(
    directory: Path, name: str, base: Base, adapters: Sequence[Adapter], settings: Settings, threads: int
) -> None:
    """Write the manifest of a merge into its directory, once everything else is there."""
    with Workers(threads) as pool:
        manifest = Manifest(
            settings=asdict(settings),
            base=_of_base(base.path.resolve().name, base, pool),
            adapters=tuple(_of_adapter(one.path.resolve().name, one, pool) for one in adapters),
            output=contents_of(name, files_in(directory), _tensors(read_checkpoint(directory)), pool),
        )
    write_manifest(directory, manifest, f"tinylora-tools {__version__}")


def _settings(manifest: Manifest, directory: Path) -> Settings:
    try:
        found = Settings.of(manifest.settings)
    except ValueError as error:
        hint = "Check it with the release that wrote it, or merge again."
        what = f"its settings aren't those of this release: {error}"
        raise FormatError(what, where=directory / NAME, hint=hint) from None
    if found.architecture != given_mark():
        merged, here = (f"one of sha256 {mark}" if mark else "none" for mark in (found.architecture, given_mark()))
        raise MismatchError(
            f"it was merged with another architecture file: {merged}, and given is {here}",
            where=directory / NAME,
            hint=f"Use {call('described_by', 'FILE')} with the file that it was merged with."
            if found.architecture
            else "Leave the architecture file away.",
        )
    return found


def _tensors(checkpoint: Checkpoint) -> list[tuple[str, TensorFile]]:
    return [(name, checkpoint.shards[number]) for name, number in checkpoint.shard_of.items()]


def _of_base(name: str, base: Base, pool: Workers) -> Contents:
    checkpoint, directory = base.checkpoint, base.directory
    texts = [path for path in (directory / "config.json", *directory.glob("*.index.json")) if path.is_file()]
    paths = [*texts, *(shard.path for shard in checkpoint.shards)]
    files = {path.relative_to(directory).as_posix(): path for path in paths}
    return contents_of(name, files, _tensors(checkpoint), pool)


def _of_adapter(name: str, adapter: Adapter, pool: Workers) -> Contents:
    """An adapter's files; and its tensors, where its file has them as they are merged."""
    file = adapter.header.file
    paths = [path for path in (file.path, file.path.parent / CONFIG_NAME) if path.is_file()]
    tensors = [] if isinstance(file, MemoryFile) else [(tensor, file) for tensor in file.tensors]
    return contents_of(name, {path.name: path for path in paths}, tensors, pool)


def _of_output(directory: Path, recorded: Contents, pool: Workers) -> list[Difference]:
    """Differences of the files; and, where a file with weights differs, of its tensors."""
    here = contents_of(recorded.name, files_in(directory), [], pool)
    found = _different_files("output", recorded, here)
    if any(one.name.endswith((".safetensors", ".index.json")) for one in found):
        try:
            here = contents_of(recorded.name, {}, _tensors(read_checkpoint(directory)), pool)
        except (FormatError, OSError) as error:
            return [*found, Difference("output", directory.name, f"its tensors can't be read: {error}")]
        found += _different("output", recorded.tensors, here.tensors, "tensor")
    return found


def _differences(part: str, recorded: Contents, here: Contents) -> list[Difference]:
    return [*_different_files(part, recorded, here), *_different(part, recorded.tensors, here.tensors, "tensor")]


def _different_files(part: str, recorded: Contents, here: Contents) -> list[Difference]:
    return _different(part, recorded.files, here.files, "file")


def _different(part: str, recorded: Mapping[str, str], here: Mapping[str, str], kind: str) -> list[Difference]:
    return [Difference(part, name, what) for name, what in different(recorded, here, kind)]


def _formed_again(
    tensors: Sequence[tuple[TensorInfo, Outcome]], recorded: Mapping[str, str], pool: Workers, threads: int
) -> list[Difference]:
    buffers = Buffers(NumpyBlockAdder, BLOCK_ELEMENTS)
    found = []
    for info, outcome in tensors:
        digest = hashlib.sha256()
        for piece in tensor_data(info, outcome, pool, buffers, threads):
            digest.update(piece)
        if recorded.get(info.name) != digest.hexdigest():
            found.append(Difference("output", info.name, "base and adapters give another tensor than was recorded"))
    return found
