"""What a merge will write, decided before a byte of it is written.

Every tensor of every adapter finds its place here, or is refused. The plan keeps the base's shards, tensor order,
offsets and header bytes wherever dtypes, shapes and ties stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..architecture import Architecture
from ..core.lowrank import Array, projected
from ..core.residual import Triplets, residual_of
from ..errors import MismatchError, UndeterminedError, UnsupportedError
from ..formats.checkpoint import SAFETENSORS_INDEX, Checkpoint
from ..formats.peft_adapter import PeftAdapter
from ..formats.safetensors_file import SafetensorsFile, build_header
from ..formats.tensors import FLOAT_NAMES, TensorFile, TensorInfo, numpy_dtype
from ..formats.torch_file import TorchFile
from .base_check import OTHER_WEIGHT
from .load import LoadedAdapter, problems
from .projections import projections, require_seed
from .targets import BaseNames, TiedGroup, refuse_packed, refuse_quantized

#: Output dtypes by the name that the user gives, as safetensors names them.
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class Update:
    """One adapter's delta for one module; its factors are read when they are needed.

    `R` (r, r) float64 includes the adapter's scale. `transposed`: the weight is stored (in, out).
    """

    adapter: PeftAdapter
    module: str
    R: Array
    transposed: bool

    def factors(self) -> tuple[Array, Array]:
        """A (r, in) and B (out, r), as stored."""
        parts = self.adapter.modules[self.module]
        return self.adapter.file.read(parts.A.name), self.adapter.file.read(parts.B.name)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor's values come from."""

    file: TensorFile
    tensor: TensorInfo


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a tensor: its values, and the updates that are added to them."""

    source: Source
    updates: tuple[Update, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A shard to write: its header, and for each of its tensors the place in the file and what goes there."""

    name: str
    header: bytes
    tensors: tuple[tuple[TensorInfo, Outcome], ...]

    @property
    def size(self) -> int:
        return self.tensors[-1][0].end if self.tensors else len(self.header)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Everything that a merge writes but the files that it copies.

    `index` is None for a single file; `config` holds the entries of config.json that change. `tied` is "untied",
    "shared" or "kept".
    """

    files: tuple[OutputFile, ...]
    index: bytes | None
    config: dict[str, Any]
    tied: str
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def outcomes(self) -> list[Outcome]:
        """What becomes of each tensor, file by file."""
        return [outcome for file in self.files for _, outcome in file.tensors]


@dataclass(slots=True)
class _Change:
    """All that the adapters ask of one parameter."""

    group: TiedGroup
    updates: list[Update] = field(default_factory=list)
    replacement: Source | None = None
    in_place: bool = False


def plan_merge(
    base: Checkpoint,
    adapters: Sequence[tuple[LoadedAdapter, float]],
    architecture: Architecture | None,
    *,
    dtype: str = "auto",
    tied: str = "untie",
) -> MergePlan:
    """Decide every tensor of the merged checkpoint.

    Parameters
    ----------
    base : Checkpoint
    adapters : sequence of (LoadedAdapter, float)
        With the scale of each one's update; they are summed.
    architecture : Architecture, optional
    dtype : "auto", "float32", "bfloat16" or "float16"
        Of all floating-point tensors; "auto" keeps each one's own.
    tied : "untie" or "share"
        What becomes of tied embeddings of which one is targeted.

    Raises
    ------
    MismatchError, UndeterminedError, UnsupportedError
        For whatever can't be merged faithfully, by name.
    """
    refuse_quantized(base)
    names = BaseNames(base, architecture)
    warnings: list[str] = []
    changes: dict[str, _Change] = {}
    for loaded, scale in adapters:
        _check(loaded)
        _gather_updates(loaded, scale, names, changes, warnings)
        _gather_replacements(loaded.adapter, scale, names, changes, warnings)
    settled = _settle(base, changes, share=tied == "share")
    files = tuple(_layout(base, names, number, settled, dtype) for number in range(len(base.shards)))
    config: dict[str, Any] = {"tie_word_embeddings": False} if settled.tied == "untied" else {}
    if dtype != "auto":
        known = [key for key in ("dtype", "torch_dtype") if key in (base.config or {})]
        config |= dict.fromkeys(known or ["torch_dtype"], dtype)
    return MergePlan(
        files=files,
        index=_index(base, files),
        config=config,
        tied=settled.tied,
        warnings=tuple(warnings),
    )


def _check(loaded: LoadedAdapter) -> None:
    adapter = loaded.adapter
    found = problems(adapter)
    if found:
        more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
        raise MismatchError(
            found[0] + more,
            where=adapter.file.path,
            hint="Was the file or its adapter_config.json edited? Save the adapter again.",
        )
    for group, info in adapter.vectors.items():
        if not np.all(np.isfinite(adapter.file.read(info.name).astype(np.float64))):
            raise MismatchError(
                f"the trained vector of group {group} holds NaN or Inf",
                where=adapter.file.path,
                hint="The training diverged: use an earlier checkpoint of the adapter.",
            )


def _gather_updates(
    loaded: LoadedAdapter, scale: float, names: BaseNames, changes: dict[str, _Change], warnings: list[str]
) -> None:
    adapter, numbering = loaded.adapter, loaded.numbering
    if not adapter.has_projections:
        require_seed(adapter)  # where the seed is lost, knowing the order wouldn't help
    if numbering.group is None or (numbering.index is None and not adapter.has_projections):
        raise numbering.doubts[0]
    drawn = projections(adapter, numbering.index)
    vectors = {group: adapter.file.read(info.name) for group, info in adapter.vectors.items()}
    for module, parts in adapter.modules.items():
        parameter = f"{module}.weight"
        change = changes.setdefault(parameter, _Change(names.group(parameter)))
        refuse_packed(names.base, change.group.stored)
        R = projected(vectors[numbering.group[module]], drawn[module]) * scale  # (r, r)
        R = R / _embedding_scale(names, module, change.group.stored, warnings)
        expected = (parts.out_features, parts.in_features)
        transposed = _is_transposed(names, adapter, module, expected, change.group.stored)
        change.updates.append(Update(adapter, module, R, transposed))


def _embedding_scale(names: BaseNames, module: str, key: str, warnings: list[str]) -> float:
    """What an embedding multiplies its weight by when it looks it up: PEFT adds the update behind that."""
    scaled = names.architecture.scaled(module) if names.architecture else False
    size = (names.base.config or {}).get("hidden_size")
    if scaled is None:
        warnings.append(
            f"{module} is scaled by sqrt(hidden_size): by itself under transformers 5, where PEFT adds the update "
            "behind that, and by the model under 4. The merge is that of an adapter trained under 4"
        )
    if not scaled or not isinstance(size, int):
        return 1.0
    dtype = numpy_dtype(names.base.info(key).dtype)  # the scale is rounded to the weight's
    return float(np.sqrt(float(size)).astype(np.float32).astype(dtype))


def _is_transposed(names: BaseNames, adapter: PeftAdapter, module: str, expected: tuple[int, int], key: str) -> bool:
    """Whether a weight is stored (in, out). The layer's type decides, or else the shape, or for a square weight the
    weight itself; never the flag in the adapter's configuration, which is what the last layer left there."""
    shape, kind = names.base.info(key).shape, names.kind(module)
    if kind is None and shape == expected == expected[::-1]:
        return _fits_transposed(names.base, adapter, module, key)
    transposed = kind == "Conv1D" if kind is not None else shape != expected
    if shape != (expected[::-1] if transposed else expected):
        wanted = expected[::-1] if kind == "Conv1D" else expected
        raise MismatchError(
            f"{module}: the adapter's factors are for a weight of shape {wanted}, {key} is {shape}",
            where=names.base.path,
            hint="Is this the base that the adapter was trained on?",
        )
    return transposed


def _fits_transposed(base: Checkpoint, adapter: PeftAdapter, module: str, key: str) -> bool:
    """Which way round a square weight has the adapter's singular vectors."""
    parts = adapter.modules[module]
    replaced = adapter.replaced.get(f"{module}.weight")
    W = adapter.file.read(replaced.tensor.name) if replaced else base.shards[base.shard_of[key]].read(key)
    triplets = Triplets.from_factors(
        adapter.file.read(parts.A.name), adapter.file.read(parts.B.name), np.dtype(np.float32)
    )
    straight, transposed = (residual_of(W, one) for one in (triplets, triplets.transposed()))
    if min(straight, transposed) > OTHER_WEIGHT or max(straight, transposed) < OTHER_WEIGHT:
        raise UndeterminedError(
            f"{module}: its weight is square, its layer's type isn't known, and the weight doesn't tell which way "
            f"round it is stored (residuals {straight:.2g} and {transposed:.2g})",
            where=base.path,
            hint="Is this the adapter's base? Then give it a config.json that names a known architecture.",
        )
    return transposed < straight


def _gather_replacements(
    adapter: PeftAdapter, scale: float, names: BaseNames, changes: dict[str, _Change], warnings: list[str]
) -> None:
    for parameter, replacement in adapter.replaced.items():
        change = changes.setdefault(parameter, _Change(names.group(parameter)))
        base_info = names.base.info(change.group.stored)
        info = replacement.tensor
        if info.shape != base_info.shape:
            raise MismatchError(
                f"{parameter}: the adapter brings shape {info.shape}, the base's {base_info.name} is {base_info.shape}",
                where=adapter.file.path,
                hint="Was the vocabulary or the head resized for training? Then save the base resized the same way.",
            )
        if info.dtype not in FLOAT_NAMES:
            raise UnsupportedError(f"{info.name} is stored as {info.dtype}", where=adapter.file.path)
        source = Source(adapter.file, info)
        if change.replacement is not None and not _same(change.replacement, source):
            raise MismatchError(
                f"{parameter}: two adapters bring different values for it, which can't be summed",
                where=adapter.file.path,
                hint="Merge only one of them, or train them without modules_to_save and biases.",
            )
        change.replacement, change.in_place = source, replacement.in_place
    if adapter.replaced and scale != 1.0:
        warnings.append(
            f"--scale {scale:g} applies to the low-rank updates; {len(adapter.replaced)} tensors that "
            f"{adapter.path.name} brings whole (biases, modules_to_save, embeddings) are taken as they are"
        )


def _same(one: Source, other: Source) -> bool:
    return np.array_equal(one.file.read(one.tensor.name), other.file.read(other.tensor.name))


@dataclass(slots=True)
class _Settled:
    """Outcomes by tensor name; `added` maps the names that the base lacks to the tensor that each was tied to."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    tied: str = "kept"


def _settle(base: Checkpoint, changes: dict[str, _Change], *, share: bool) -> _Settled:
    settled = _Settled()
    for stored, group in {change.group.stored: change.group for change in changes.values()}.items():
        of_member = _members(Source(base.shards[base.shard_of[stored]], base.info(stored)), group, changes)
        first = next(iter(of_member.values()))
        if all(outcome == first for outcome in of_member.values()):
            settled.outcomes |= {key: first for key in group.members.values() if key in base}
        elif share:
            settled.tied = "shared"
            joined = _shared_outcome(base, group, list(of_member.values()))
            settled.outcomes |= {key: joined for key in group.members.values() if key in base}
        elif group.optional:
            settled.tied = "untied"
            settled.outcomes |= {group.members[member]: outcome for member, outcome in of_member.items()}
            settled.added |= {key: stored for key in group.members.values() if key not in base}
        else:
            changed = [member for member, outcome in of_member.items() if outcome.updates]
            raise UnsupportedError(
                f"{' and '.join(changed) or stored}: the adapter changes one of {', '.join(group.members)}, "
                "which this architecture can't hold apart",
                where=base.path,
                hint="With --tied share all of them get the update, as in PEFT's own merge; "
                "the adapter's forward pass doesn't compute that.",
            )
    return settled


def _shared_outcome(base: Checkpoint, group: TiedGroup, outcomes: list[Outcome]) -> Outcome:
    if any(outcome.source != outcomes[0].source for outcome in outcomes):
        raise MismatchError(
            f"the adapter brings values of its own for some of {', '.join(group.members)}, which the base ties",
            where=base.path,
            hint="Merge with --tied untie.",
        )
    return Outcome(outcomes[0].source, tuple(update for outcome in outcomes for update in outcome.updates))


def _members(stored: Source, group: TiedGroup, changes: dict[str, _Change]) -> dict[str, Outcome]:
    """What the model's forward pass uses for each parameter of a group."""
    wanted = {member: changes[member] for member in group.members if member in changes}
    shared = [c.replacement for c in wanted.values() if c.replacement is not None and c.in_place]
    if any(not _same(source, shared[0]) for source in shared[1:]):
        raise MismatchError(
            f"the adapter holds different values for {' and '.join(wanted)}, which are one tensor in the base",
            where=shared[0].file.path,
            hint="Was it trained on this base? One whose embeddings aren't tied would hold them apart.",
        )
    common = shared[0] if shared else stored
    outcomes = {}
    for member in group.members:
        change = wanted.get(member)
        own = change.replacement if change is not None and not change.in_place else None
        outcomes[member] = Outcome(own or common, tuple(change.updates) if change else ())
    return outcomes


def _layout(base: Checkpoint, names: BaseNames, number: int, settled: _Settled, dtype: str) -> OutputFile:
    """One shard: the base's tensors in their order, each new tensor behind the one that it was tied to."""
    shard = base.shards[number]
    wanted: list[tuple[str, str]] = []  # name, and the base's tensor that has its dtype
    for name in shard.tensors:
        if isinstance(shard, TorchFile) and name in shard.aliases and names.tied and name not in settled.outcomes:
            continue  # a tied tensor that the pickle lists twice; safetensors files hold it once
        wanted.append((name, name))
        wanted += [(new, name) for new, stored in settled.added.items() if stored == name]
    outcomes = [
        settled.outcomes[name]
        if name in settled.outcomes and base.shard_of.get(like) == number
        else Outcome(Source(shard, shard.tensors[like]))
        for name, like in wanted
    ]
    entries = [
        (name, _output_dtype(shard.tensors[like].dtype, dtype), outcome.source.tensor.shape)
        for (name, like), outcome in zip(wanted, outcomes, strict=True)
    ]
    if isinstance(shard, SafetensorsFile) and entries == [(i.name, i.dtype, i.shape) for i in shard.tensors.values()]:
        header, places = shard.header, dict(shard.tensors)
    else:
        header, places = build_header(entries, dict(shard.metadata) or {"format": "pt"})
    tensors = tuple((places[name], outcome) for (name, _), outcome in zip(wanted, outcomes, strict=True))
    return OutputFile(_output_name(shard.path.name), header, tensors)


def _output_dtype(stored: str, dtype: str) -> str:
    return DTYPES[dtype] if dtype != "auto" and stored in FLOAT_NAMES else stored


def _output_name(name: str) -> str:
    if name.endswith(".safetensors"):
        return name
    return name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def _index(base: Checkpoint, files: Sequence[OutputFile]) -> bytes | None:
    """The index, byte for byte the base's where it still holds."""
    if base.index is None:
        return None
    weight_map = {
        info.name: file.name
        for number, file in enumerate(files)
        for info, _ in file.tensors
        if base.shard_of.get(info.name, number) == number
    }
    kept_size = all(
        info.nbytes == base.info(info.name).nbytes for f in files for info, _ in f.tensors if info.name in base
    )
    if kept_size and weight_map == base.index["weight_map"]:
        return (base.path / SAFETENSORS_INDEX).read_bytes()
    total = sum(info.nbytes for file in files for info, _ in file.tensors)
    metadata = {**base.index.get("metadata", {}), "total_size": total}
    text = json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2)
    return (text + "\n").encode()
