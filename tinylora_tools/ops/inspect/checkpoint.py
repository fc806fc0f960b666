"""What is in a base checkpoint: counts by dtype and by kind of layer, shards and ties, from the headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...bases.architectures.architecture import Architecture
from ...bases.base import Base
from ...formats.checkpoint import Checkpoint
from ...formats.safetensors_file import SafetensorsFile
from ...formats.tensors import TensorFile, TensorInfo


@dataclass(frozen=True, slots=True)
class Count:
    """Tensors of one dtype or one kind of layer."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One file of the checkpoint."""

    name: str
    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """All that `tinylora inspect` says of a checkpoint. `tied` holds groups of parameters that are one tensor."""

    kind: str
    path: str
    architecture: str | None
    parameters: int
    tensor_bytes: int
    file_bytes: int
    tensors: int
    shards: list[ShardRow]
    dtypes: dict[str, Count]
    layers: dict[str, Count]
    tied: list[list[str]]
    quantization: str | None
    warnings: list[str]


def inspect_checkpoint(base: Base, notes: Sequence[str] = ()) -> CheckpointReport:
    """Describe a checkpoint directory, or a single weights file; `notes` go before its own warnings."""
    checkpoint, architecture = base.checkpoint, base.architecture
    config = dict(base.config or {})
    infos = checkpoint.tensor_infos()
    names = config.get("architectures")
    named = [*(names[:1] if isinstance(names, list) else []), config.get("model_type")]
    quantization = config.get("quantization_config")
    return CheckpointReport(
        kind="checkpoint",
        path=base.source,
        architecture=next((one for one in named if isinstance(one, str)), None),
        parameters=sum(info.parameters for info in infos),
        tensor_bytes=sum(info.nbytes for info in infos),
        file_bytes=sum(map(_size, checkpoint.shards)),
        tensors=len(infos),
        shards=[_shard_row(checkpoint, shard) for shard in checkpoint.shards],
        dtypes=_counts((info.dtype, info) for info in infos),
        layers=_counts((_kind(info, architecture), info) for info in infos),
        tied=_ties(checkpoint, architecture, config),
        quantization=str(quantization.get("quant_method", "unknown")) if isinstance(quantization, dict) else None,
        warnings=[*notes, *_warnings(checkpoint)],
    )


def _shard_row(checkpoint: Checkpoint, shard: TensorFile) -> ShardRow:
    path = shard.path
    name = path.name if path == checkpoint.path else path.relative_to(checkpoint.path).as_posix()
    return ShardRow(name, len(shard.tensors), _size(shard))


def _size(shard: TensorFile) -> int:
    return shard.size if isinstance(shard, SafetensorsFile) else shard.path.stat().st_size


def _counts(labelled: Iterable[tuple[str, TensorInfo]]) -> dict[str, Count]:
    sums: dict[str, list[int]] = {}
    for label, info in labelled:
        found = sums.setdefault(label, [0, 0, 0])
        found[0] += 1
        found[1] += info.parameters
        found[2] += info.nbytes
    return {label: Count(*found) for label, found in sorted(sums.items(), key=lambda item: -item[1][1])}


def _kind(info: TensorInfo, architecture: Architecture | None) -> str:
    """The kind of layer that a tensor belongs to: by the architecture's data, else by name and shape."""
    module, _, parameter = info.name.rpartition(".")
    if parameter == "bias":
        return "bias"
    if architecture is not None and parameter == "weight" and (kind := architecture.kind(module)) is not None:
        return "embedding" if kind == "Embedding" else "head" if _is_head(module) else "linear"
    last = module.rpartition(".")[2]
    if ".experts." in info.name:
        return "expert"
    if "norm" in last or "ln_" in last or last.startswith("ln"):
        return "norm"
    if len(info.shape) >= 2:
        if any(word in last for word in ("embed", "wte", "wpe", "shared")):
            return "embedding"
        return "head" if _is_head(module) else "linear"
    return "other"


def _is_head(module: str) -> bool:
    return module.rpartition(".")[2] in ("lm_head", "embed_out", "score", "classifier", "qa_outputs", "proj_out")


def _ties(checkpoint: Checkpoint, architecture: Architecture | None, config: dict[str, object]) -> list[list[str]]:
    if architecture is None:
        return []
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in checkpoint.shard_of:
        if any(map(str.isdigit, name)):
            continue  # few architectures tie those of numbered layers, and they tie many
        tie = architecture.ties.of(name)
        if tie is not None and tie.holds is not False:
            groups[tie.members] = list(tie.members)
    return list(groups.values())


def _warnings(checkpoint: Checkpoint) -> list[str]:
    unlisted = [name for shard in checkpoint.shards for name in shard.tensors if name not in checkpoint.shard_of]
    if not unlisted:
        return []
    return [f"the index doesn't list {len(unlisted)} tensors that the shards hold, such as {unlisted[0]}"]
