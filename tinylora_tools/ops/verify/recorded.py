"""A base's tensors against what was recorded of them, bit for bit: by a merge's manifest, by the Hub, by a packed
adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...bases.base import Base
from ...formats.checkpoint import Checkpoint
from ...output.manifest import NAME, Manifest, different, file_digest, read_manifest, tensor_digest
from ...progress import Progress
from ...sources.hub_records import HubRecord, hub_record
from ...sources.locate import locate


@dataclass(frozen=True, slots=True)
class Record:
    """What told of a base's tensors: a "manifest", the "hub" or a "packed" adapter; the file that it stands in, or that
    it tells of; and how many tensors were compared with it."""

    kind: Literal["manifest", "hub", "packed"]
    path: str
    tensors: int


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor, or a file of them, that isn't as it was recorded: by which kind of record, and how it differs."""

    name: str
    record: str
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it; `compared` are the names of the tensors that some record tells of."""

    records: tuple[Record, ...] = ()
    differences: tuple[TensorDifference, ...] = ()
    compared: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def manifests_of(base: Base, against: str | Path | None) -> list[tuple[Path, Manifest]]:
    """The manifest in the base's directory, which is a merged model's then, and the one that is named, by its file or
    its directory.

    Raises
    ------
    FormatError
        If none is there where one is named, or one is damaged.
    """
    own = base.directory / NAME
    found = [(own, read_manifest(own))] if own.is_file() else []
    if against is not None:
        named = locate(against)
        manifest = read_manifest(named)
        file = named / NAME if named.is_dir() else named
        if file.resolve() != own.resolve():
            found.append((file, manifest))
    return found


def compare_with_records(
    base: Base,
    manifests: Sequence[tuple[Path, Manifest]],
    packed: tuple[Path, Sequence[str]] | None,
    threads: int,
    progress: Progress,
) -> Comparison:
    """Compare every tensor of which a record is at hand.

    Parameters
    ----------
    base : Base
    manifests
        What `manifests_of` found.
    packed : (Path, names), optional
        A packed adapter, and the weights that its opening has compared already.
    threads : int
    progress : Progress
    """
    checkpoint, of_hub = base.checkpoint, _of_hub(base)
    sizes = [sum(shard.tensors[name].nbytes for name in shard.tensors) for shard in checkpoint.shards]
    progress.start("Comparing", sum(sizes) * bool(manifests) + sum(sizes[number] for number in of_hub))
    found: list[Comparison] = []
    with ThreadPoolExecutor(threads) as pool:
        if manifests:
            here = _digests(checkpoint, pool, progress)
            found += [_by_manifest(path, manifest, base, here) for path, manifest in manifests]
        same = pool.map(lambda number: of_hub[number].is_of(checkpoint.shards[number].path), of_hub)
        for number, is_same in zip(of_hub, same, strict=True):
            progress.advance(sizes[number])
            found.append(_by_hub(checkpoint, number, is_same))
    if packed is not None:
        path, names = packed
        found.append(Comparison((Record("packed", str(path), len(names)),), (), frozenset(names)))
    return Comparison(
        tuple(record for one in found for record in one.records),
        tuple(difference for one in found for difference in one.differences),
        frozenset().union(*(one.compared for one in found)),
        tuple(note for one in found for note in one.notes),
    )


def _by_manifest(path: Path, manifest: Manifest, base: Base, here: Mapping[str, str]) -> Comparison:
    """What lies in the base's directory tells of the base as of an output; any other, of what it was merged into."""
    own = _is_own(path, base)
    recorded = (manifest.output if own else manifest.base).tensors
    found = [TensorDifference(name, "manifest", what) for name, what in different(recorded, here, "tensor")]
    notes: tuple[str, ...] = ()
    if found and not own and not different(manifest.output.tensors, here, "tensor"):
        notes = (f"the base is what came of the merge that {path} tells of, not what went into it",)
    record = Record("manifest", str(path), len(recorded.keys() & here.keys()))
    return Comparison((record,), tuple(found), frozenset(here), notes)


def _is_own(path: Path, base: Base) -> bool:
    return path.resolve() == (base.directory / NAME).resolve()


def merged_already(base: Base, manifests: Sequence[tuple[Path, Manifest]], adapter: Path) -> list[str]:
    """A note where the base's own manifest says that this adapter's file was merged into it: small updates don't keep
    its factors from fitting."""
    for path, manifest in manifests:
        digests = {digest for one in manifest.adapters for digest in one.files.values()}
        if _is_own(path, base) and digests and file_digest(adapter) in digests:
            return ["this base is what the adapter was merged into already, by the manifest in it, not its base"]
    return []


def _digests(checkpoint: Checkpoint, pool: Executor, progress: Progress) -> dict[str, str]:
    """sha256 of each tensor's bytes as they are stored."""

    def one(name: str) -> str:
        shard = checkpoint.shards[checkpoint.shard_of[name]]
        digest = tensor_digest(shard, name)
        progress.advance(shard.tensors[name].nbytes)
        return digest

    return dict(zip(checkpoint.shard_of, pool.map(one, checkpoint.shard_of), strict=True))


def _of_hub(base: Base) -> dict[int, HubRecord]:
    """The shards that came from the Hub, by their numbers, with what it recorded of each."""
    records = ((number, hub_record(shard.path, base.directory)) for number, shard in enumerate(base.checkpoint.shards))
    return {number: record for number, record in records if record is not None}


def _by_hub(checkpoint: Checkpoint, number: int, same: bool) -> Comparison:
    """A digest of a whole file: where it is another, which of its tensors differ isn't known."""
    path = checkpoint.shards[number].path
    names = frozenset(name for name, place in checkpoint.shard_of.items() if place == number)
    what = "this file isn't the one that the Hub recorded; which of its tensors differ isn't known"
    found = () if same else (TensorDifference(path.name, "hub", what),)
    return Comparison((Record("hub", str(path), len(names)),), found, names)
