"""Third-party adapters in PEFT's form, with P stored: each project's rules applied, its arithmetic repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...bases.base import Base
from ...bases.listing import listed_model
from ...bases.modules import ModelModules, open_model
from ...bases.quantization import in_parts, refusal_of_parts, refuse_packed
from ...bases.selection import shortest_targets
from ...bases.weights import over_modules, torch_threads
from ...core.streams.projection import DEFAULT_STREAM
from ...core.torch_arrays import check_device
from ...core.tying import group_of
from ...errors import FormatError, MismatchError, UndeterminedError
from ...formats import third_party
from ...formats.memory_file import MemoryFile
from ...formats.peft.adapter import PeftAdapter, sort_keys
from ...formats.peft.config import TinyLoraConfig
from ...formats.peft.keys import factor_key, vector_key
from ...formats.third_party import Found
from ...formats.third_party.adapter import ThirdPartyAdapter
from ...progress import Progress
from ...sources.locate import locate_base
from ...wording import argument
from ..answers import Answers
from .factors import ComputedFactors, Converted, Projections, StoredFactors, dtype_in_forward, rounded


def import_third_party(
    found: Found,
    base: Base | None,
    answers: Answers,
    *,
    module_order: Sequence[str] | None = None,
    stream: str = DEFAULT_STREAM,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress,
) -> tuple[PeftAdapter, list[str]]:
    """A third-party adapter as PEFT's file and configuration would have it; and what to know of the change.

    Raises
    ------
    UndeterminedError
        For what no file says: a setting, P, the base, the order of modules.
    TinyLoraError
        For files that are damaged, or that don't belong together.
    """
    adapter = third_party.read(found, answers.settings)
    named = base
    if base is None and adapter.base_model and (at := locate_base(adapter.base_model, None, adapter.path.parent)):
        base = Base(at)
    names, model = _in_order(adapter, base, module_order)
    groups = adapter.groups(names)
    vectors = _vectors(adapter, names, groups, model)
    P = Projections(adapter, names, answers.projection, stream)
    with torch_threads(threads):
        tensors, notes = _factors(
            adapter, base, model, names, vectors, P, device=device, answers=answers, progress=progress
        )
    tying, numbers = _tying(groups)
    if any(not np.array_equal(vectors[n], vectors[m]) for n, m in _pairs(names, numbers)):
        tying, numbers = 0.0, list(range(len(names)))  # rounded to the dtypes of several weights
    tensors |= {vector_key(number): vectors[name] for name, number in zip(names, numbers, strict=True)}
    config = TinyLoraConfig(
        r=adapter.rank,
        u=adapter.proj_dim,
        weight_tying=tying,
        target_modules=tuple(sorted(names)) if model is None else shortest_targets(names, model),
        base_model_name_or_path=named.name if named else adapter.base_model,
        task_type="CAUSAL_LM" if _is_causal(model) else None,
    )
    if len(set(numbers)) > len(set(groups)):
        notes.append(
            f"PEFT can't tie modules as this adapter's {len(set(groups))} groups do: each of the {len(names)} modules "
            "gets a copy of its vector. The update is the same; trained on, the copies would part"
        )
    if config.base_model_name_or_path is None:
        notes.append(f"no file says what the base is: name it with {argument('base')}, and the configuration will")
    as_peft = replace(config, raw=config.to_json())
    file = MemoryFile(adapter.path, tensors, {"converted_from": adapter.dialect})
    return sort_keys(found.path, file, as_peft), [*adapter.notes, *notes]


def _is_causal(model: ModelModules | None) -> bool:
    return (
        model is not None and model.architecture is not None and model.architecture.class_name.endswith("ForCausalLM")
    )


def _in_order(
    adapter: ThirdPartyAdapter, base: Base | None, order: Sequence[str] | None
) -> tuple[list[str], ModelModules | None]:
    """The modules in named_modules() order, and the model that they are of, where one is at hand."""
    listed = list(adapter.names or ())
    told = bool(listed) and (adapter.ordered or len(adapter.vectors) == 1)  # one vector: places don't matter
    if base is None and adapter.checkpoint is not None:
        base = Base(adapter.checkpoint.path)
        base.checkpoint = adapter.checkpoint
    if base is None:
        if order is None and not told:
            raise UndeterminedError(
                "which modules it adapts, or in what order, isn't in the file",
                where=adapter.path,
                hint=_name_the_base(),
            )
        absent = [name for name in listed if order is not None and name not in order]
        if absent or (order is not None and not listed):
            raise UndeterminedError(
                f"{argument('module_order')} doesn't name {absent[0]}, which is adapted"
                if absent
                else "the base isn't at hand",
                where=adapter.path,
                hint="List every module in the order of model.named_modules()." if absent else _name_the_base(),
            )
        return (listed if order is None else [name for name in order if name in listed]), None
    model = listed_model(open_model(base, numbered=not told and order is None), order, base.path)
    for module, key in in_parts(base.checkpoint, model.architecture).items():
        if adapter.adapts(module):
            raise refusal_of_parts(base.checkpoint, module, key)
    names = [m.name for m in model.modules.values() if m.kind == "Linear" and adapter.adapts(m.name)]
    absent = sorted(set(listed) - set(names))
    if absent or not names:
        raise MismatchError(
            f"has no linear layer {absent[0]}, which the adapter adapts" if absent else "has no layer that is adapted",
            where=base.path,
            hint="Is this the base that the adapter was trained on?",
        )
    return (listed if adapter.ordered else names), model


def _vectors(
    adapter: ThirdPartyAdapter, names: Sequence[str], groups: Sequence[int], model: ModelModules | None
) -> dict[str, NDArray[Any]]:
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
    adapter: ThirdPartyAdapter,
    base: Base | None,
    model: ModelModules | None,
    names: Sequence[str],
    vectors: Mapping[str, NDArray[Any]],
    P: Projections,
    *,
    device: str,
    answers: Answers,
    progress: Progress,
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """A, B and P of every module by PEFT's keys, and what to know of them."""
    where = check_device(device)
    stored, computed, notes = StoredFactors(adapter, P, base), None, []
    if adapter.frozen(names[0]) is None:
        if base is None or model is None:
            raise UndeterminedError(
                "its factors have to be computed from the base's weights, which aren't at hand",
                where=adapter.path,
                hint=_name_the_base(),
            )
        for name in names:
            refuse_packed(base.checkpoint, model.modules[name].tensor.name)
        computed = ComputedFactors(adapter, P, base, where, answers.against)
        if answers.against is None:
            notes.append(
                f"the signs of singular pairs are in no file: they are those of torch.linalg.svd on {where}, as the "
                "project's own loader finds them there. Training elsewhere may have met others, and another update: "
                f"check with {argument('against', ...)}, a checkpoint that the adapter was merged into"
            )

    def convert(name: str) -> Converted:
        module, frozen = model.modules[name] if model else None, adapter.frozen(name)
        if frozen is not None:
            return stored.convert(name, frozen, module)
        if computed is None or module is None:
            raise MismatchError(f"has no factors of {name}", where=adapter.path)
        return computed.convert(name, vectors[name], module)

    tensors: dict[str, NDArray[Any]] = {}
    for name, parts in _over(names, model, convert, where, progress, base.path if base else adapter.path):
        for part, values in zip("ABP", parts, strict=True):
            if not np.all(np.isfinite(values)):
                raise FormatError(f"{name}: {part} would hold NaN or Inf", where=adapter.path)
            tensors[factor_key(name, part)] = np.ascontiguousarray(values)
    return tensors, notes


def _over(
    names: Sequence[str],
    model: ModelModules | None,
    convert: Callable[[str], Converted],
    device: torch.device,
    progress: Progress,
    where: Path,
) -> Iterator[tuple[str, Converted]]:
    """Each module converted, in their order; progress is told where the weights' sizes are known."""
    if model is None:
        yield from ((name, convert(name)) for name in names)
        return
    modules = [model.modules[name] for name in names]
    for module, parts in over_modules(
        "Factoring",
        modules,
        lambda module: convert(module.name),
        device=device,
        progress=progress,
        where=where,
        side_by_side=False,
    ):
        yield module.name, parts


def _name_the_base() -> str:
    return f"Name the base that it was trained on with {argument('base')}."


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
