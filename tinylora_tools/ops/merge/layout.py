"""The files of a merged checkpoint: the base's shards, header bytes and index, wherever they still hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from ...bases.tensor_names import BaseNames
from ...formats.checkpoint import SAFETENSORS_INDEX, Checkpoint
from ...formats.safetensors_file import SafetensorsFile, build_header
from ...formats.tensors import DTYPE_OF, FLOAT_NAMES
from ...formats.torch_file import TorchFile
from ...inputs import read_input
from ...output.file_copy import BLOCK
from .words import Outcome, OutputFile, Settled, Source


def layout(base: Checkpoint, names: BaseNames, number: int, settled: Settled, dtype: str) -> OutputFile:
    """One shard: the base's tensors in their order, each new tensor behind the one that it was tied to."""
    shard = base.shards[number]
    wanted: list[tuple[str, str]] = []  # name, and the base's tensor that has its dtype
    for name in shard.tensors:
        if isinstance(shard, TorchFile) and name in shard.aliases and names.tied and name not in settled.outcomes:
            continue  # a tied tensor that the pickle lists twice; safetensors files hold it once
        if name in settled.dropped:
            continue
        wanted.append((name, name))
        wanted += [(new, name) for new, stored in settled.added.items() if stored == name]
    entries, outcomes = [], []
    for name, like in wanted:
        settles = name in settled.outcomes and base.shard_of.get(like) == number
        outcomes.append(settled.outcomes[name] if settles else Outcome(Source(shard, shard.tensors[like])))
        stored = base.info(like) if settles else shard.tensors[like]  # a quantized one is settled as plain numbers
        entries.append((name, _output_dtype(stored.dtype, dtype), outcomes[-1].source.tensor.shape))
    kept = entries == [(info.name, info.dtype, info.shape) for info in shard.tensors.values()]
    if kept and isinstance(shard, SafetensorsFile) and shard.header:
        header, places = shard.header, dict(shard.tensors)
    else:
        header, places = build_header(entries, dict(shard.metadata) or {"format": "pt"})
    tensors = tuple((places[name], outcome) for (name, _), outcome in zip(wanted, outcomes, strict=True))
    return OutputFile(_output_name(shard.path.relative_to(base.path)), header, tensors)


def with_blocks_alike(file: OutputFile) -> OutputFile:
    """A shard with a header so long that what it has of the base's lies as there in blocks of the disk, as far as one
    length does that."""
    of_base: dict[int, int] = {}
    for info, outcome in file.tensors:
        if outcome.is_copy(info) and outcome.source.tensor.start:  # else its bytes have no place in a file
            further = (outcome.source.tensor.start - info.start) % BLOCK
            of_base[further] = of_base.get(further, 0) + info.nbytes
    further = max(of_base, key=lambda one: of_base[one], default=0)
    length = len(file.header) - 8 + further
    header = length.to_bytes(8, "little") + file.header[8:] + b" " * further
    moved = [(replace(info, start=info.start + further, end=info.end + further), one) for info, one in file.tensors]
    return OutputFile(file.name, header, tuple(moved))


def _output_dtype(stored: str, dtype: str) -> str:
    return DTYPE_OF[dtype] if dtype != "auto" and stored in FLOAT_NAMES else stored


def _output_name(path: PurePath) -> str:
    name = path.name
    if not name.endswith(".safetensors"):
        name = name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
    return path.with_name(name).as_posix()  # shards may lie in sub-directories


def index_of(base: Checkpoint, files: Sequence[OutputFile]) -> bytes | None:
    """The index, byte for byte the base's where it still holds."""
    if base.index is None:
        return None
    weight_map = {
        info.name: file.name
        for number, file in enumerate(files)
        for info, _ in file.tensors
        if base.shard_of.get(info.name) == number or info.name not in base.shards[number].tensors
    }
    kept_size = all(
        info.nbytes == base.stored(info.name).nbytes for f in files for info, _ in f.tensors if info.name in base
    )
    if kept_size and weight_map == base.index["weight_map"]:
        return read_input(base.path / SAFETENSORS_INDEX)
    total = sum(info.nbytes for file in files for info, _ in file.tensors)
    stated = base.index.get("metadata")
    metadata = {**(stated if isinstance(stated, dict) else {}), "total_size": total}
    text = json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2)
    return (text + "\n").encode()
