"""Third-party adapters in PEFT's form, with P stored: each project's rules applied, its arithmetic repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bases.modules import ModelModules
from ..bases.selection import Selection, Targets, shortest_targets
from ..core.torch_arrays import check_device
from ..core.tying import group_of
from ..errors import FormatError, MismatchError, UndeterminedError
from ..formats.checkpoint import Checkpoint, read_checkpoint
from ..formats.peft_adapter import factor_key, vector_key
from ..formats.third_party import read
from ..formats.third_party.adapter import Array, ForeignAdapter
from ..ops.create.plan import Settings, base_name, config_json, open_model
from ..progress import NoProgress, Progress
from ..sources.locate import locate_base
from .third_party_factors import ComputedFactors, Projections, StoredFactors, dtype_in_forward, rounded
from .third_party_options import ForeignOptions


@dataclass(frozen=True, slots=True)
class Imported:
    """An adapter as PEFT's file and configuration would have it."""

    tensors: dict[str, Array]
    config: dict[str, Any]
    metadata: dict[str, str]
    warnings: list[str]


def import_foreign(
    path: Path, base: Path | None, options: ForeignOptions | None = None, progress: Progress | None = None
) -> Imported:
    """Read a third-party adapter and express it in PEFT's form.

    Raises
    ------
    UndeterminedError
        For what no file says: a setting, P, the base, the order of modules.
    TinyLoraError
        For files that are damaged, or that don't belong together.
    """
    options = options or ForeignOptions()
    adapter = read(path, options.settings)
    checkpoint = _base_of(adapter, base)
    names, model = _in_order(adapter, checkpoint, options.module_order)
    groups = adapter.groups(names)
    vectors = _vectors(adapter, names, groups, model)
    tensors, notes = _factors(adapter, checkpoint, model, names, vectors, options, progress or NoProgress())
    tying, numbers = _tying(groups)
    if any(not np.array_equal(vectors[n], vectors[m]) for n, m in _pairs(names, numbers)):
        tying, numbers = 0.0, list(range(len(names)))  # rounded to the dtypes of several weights
    tensors |= {vector_key(number): vectors[name] for name, number in zip(names, numbers, strict=True)}
    targets = tuple(sorted(names)) if model is None else shortest_targets(names, model)
    settings = Settings(Targets(targets), rank=adapter.rank, proj_dim=adapter.proj_dim, weight_tying=tying)
    config = config_json(settings, Selection((), targets), base_name(base) if base else adapter.base_model)
    if model is not None and model.architecture and model.architecture.class_name.endswith("ForCausalLM"):
        config["task_type"] = "CAUSAL_LM"
    if len(set(numbers)) > len(set(groups)):
        notes.append(
            f"PEFT can't tie modules as this adapter's {len(set(groups))} groups do: each of the {len(names)} modules "
            "gets a copy of its vector. The update is the same; trained on, the copies would part"
        )
    if config["base_model_name_or_path"] is None:
        notes.append("no file says what the base is: name it with --base, and the configuration will")
    return Imported(tensors, config, {"converted_from": adapter.dialect}, [*adapter.notes, *notes])


def _base_of(adapter: ForeignAdapter, base: Path | None) -> Checkpoint | None:
    """The base that the user names, or that the adapter does and is at hand."""
    if base is None and adapter.base_model:
        base = locate_base(adapter.base_model, None, adapter.path.parent)
    return read_checkpoint(base) if base is not None else None


def _in_order(
    adapter: ForeignAdapter, base: Checkpoint | None, order: Sequence[str] | None
) -> tuple[list[str], ModelModules | None]:
    """The modules in named_modules() order, and the model that they are of, where one is at hand."""
    checkpoint, listed = base or adapter.checkpoint, list(adapter.names or ())
    told = bool(listed) and (adapter.ordered or len(adapter.vectors) == 1)  # one vector: places don't matter
    if checkpoint is None:
        if order is None and not told:
            raise UndeterminedError(
                "which modules it adapts, or in what order, isn't in the file",
                where=adapter.path,
                hint="Name the base that it was trained on with --base.",
            )
        absent = [name for name in listed if order is not None and name not in order]
        if absent or (order is not None and not listed):
            raise UndeterminedError(
                f"--module-order doesn't name {absent[0]}, which is adapted" if absent else "the base isn't at hand",
                where=adapter.path,
                hint="List every module in the order of model.named_modules()." if absent else "Name it with --base.",
            )
        return (listed if order is None else [name for name in order if name in listed]), None
    model = open_model(checkpoint, module_order=order, numbered=not told)
    names = [m.name for m in model.modules.values() if m.kind == "Linear" and adapter.adapts(m.name)]
    absent = sorted(set(listed) - set(names))
    if absent or not names:
        raise MismatchError(
            f"has no linear layer {absent[0]}, which the adapter adapts" if absent else "has no layer that is adapted",
            where=checkpoint.path,
            hint="Is this the base that the adapter was trained on?",
        )
    return (listed if adapter.ordered else names), model


def _vectors(
    adapter: ForeignAdapter, names: Sequence[str], groups: Sequence[int], model: ModelModules | None
) -> dict[str, Array]:
    """Each module's v in float32, rounded as its forward pass rounds it."""
    found = {}
    for name, group in zip(names, groups, strict=True):
        if not 0 <= group < len(adapter.vectors):
            raise MismatchError(
                f"{name} is in group {group}, and there are {len(adapter.vectors)} vectors", where=adapter.path
            )
        found[name] = rounded(adapter.vectors[group], dtype_in_forward(adapter, model.modules[name] if model else None))
        if not np.all(np.isfinite(found[name])):
            raise MismatchError(
                f"the vector of {name} holds NaN or Inf",
                where=adapter.path,
                hint="The training diverged: use an earlier checkpoint of the adapter.",
            )
    return found


def _factors(
    adapter: ForeignAdapter,
    base: Checkpoint | None,
    model: ModelModules | None,
    names: Sequence[str],
    vectors: Mapping[str, Array],
    options: ForeignOptions,
    progress: Progress,
) -> tuple[dict[str, Array], list[str]]:
    """A, B and P of every module by PEFT's keys, and what to know of them."""
    P = Projections(adapter, names, options.projections, options.stream)
    device = check_device(options.device, "Leave --device out to compute on the CPU.")
    stored, computed, notes = StoredFactors(adapter, P, base), None, []
    if adapter.frozen(names[0]) is None:
        if base is None or model is None:
            raise UndeterminedError(
                "its factors have to be computed from the base's weights, which aren't at hand",
                where=adapter.path,
                hint="Name the base that it was trained on with --base.",
            )
        computed = ComputedFactors(adapter, P, base, device, options.against)
        if options.against is None:
            notes.append(
                f"the signs of singular pairs are in no file: they are those of torch.linalg.svd on {device}, as the "
                "project's own loader finds them there. Training elsewhere may have met others, and another update: "
                "check with --against MERGED, a checkpoint that the adapter was merged into"
            )
    tensors: dict[str, Array] = {}
    cost = {name: model.modules[name].tensor.nbytes if model else 1 for name in names}
    progress.start(sum(cost.values()))
    for name in names:
        progress.at(name)
        module, frozen = model.modules[name] if model else None, adapter.frozen(name)
        if frozen is not None:
            parts = stored.convert(name, frozen, module)
        elif computed is not None and module is not None:
            parts = computed.convert(name, vectors[name], module)
        else:
            raise MismatchError(f"has no factors of {name}", where=adapter.path)
        for part, values in zip("ABP", parts, strict=True):
            if not np.all(np.isfinite(values)):
                raise FormatError(f"{name}: {part} would hold NaN or Inf", where=adapter.path)
            tensors[factor_key(name, part)] = np.ascontiguousarray(values)
        progress.advance(cost[name])
    return tensors, notes


def _pairs(names: Sequence[str], numbers: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Each module with the first of its group."""
    first: dict[int, str] = {}
    for name, number in zip(names, numbers, strict=True):
        yield name, first.setdefault(number, name)


def _tying(groups: Sequence[int]) -> tuple[float, list[int]]:
    """The weight_tying for which PEFT makes these groups, and their numbers in PEFT; 0.0 with a group for each module
    where there is none."""
    first: dict[int, int] = {}
    numbered = [first.setdefault(group, len(first)) for group in groups]
    n, count = len(groups), len(first)
    for tying in (1.0, 0.0, 1.0 - count / n):
        if [group_of(i, n, tying) for i in range(n)] == numbered:
            return tying, numbered
    return 0.0, list(range(n))
