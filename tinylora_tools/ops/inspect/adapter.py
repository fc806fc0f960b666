"""What is in an adapter: counts, groups, modules, and what its user should know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...adapters.load import LoadedAdapter, load_adapter, problems, unsaved_bias
from ...adapters.provenance import regime, seed_is_lost
from ...formats.peft_adapter import PeftAdapter
from ...formats.tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of content: "A", "B", "P", "v", "bias", "other", "leaked" or "foreign"."""

    part: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One targeted module; `index` and `group` are None where they can't be known."""

    name: str
    index: int | None
    group: int | None
    rank: int
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """All that `tinylora inspect` says of an adapter. `trainable_*` count the vectors v alone."""

    kind: str
    path: str
    trainable_parameters: int
    trainable_bytes: int
    trainable_bytes_bf16: int
    stored_parameters: int
    tensor_bytes: int
    file_bytes: int
    contents: list[Part]
    groups: int
    order_from: str
    regime: str
    peft_version: str | None
    base_model: str | None
    config: dict[str, Any] | None
    modules: list[ModuleRow]
    warnings: list[str]


def inspect_adapter(
    path: Path, *, base_config: Mapping[str, Any] | None = None, module_order: Sequence[str] | None = None
) -> AdapterReport:
    """Describe an adapter from its headers, its vectors and its P; A and B aren't read.

    Parameters
    ----------
    path : Path
        Its directory or file.
    base_config : Mapping, optional
        The base's config.json, which tells the architecture.
    module_order : sequence of str, optional
        The targeted modules in named_modules() order.
    """
    loaded = load_adapter(path, base_config=base_config, module_order=module_order)
    adapter, numbering = loaded.adapter, loaded.numbering
    index, group = numbering.index or {}, numbering.group or {}
    rows = [
        ModuleRow(
            name=name,
            index=index.get(name),
            group=group.get(name),
            rank=factors.rank,
            in_features=factors.in_features,
            out_features=factors.out_features,
        )
        for name, factors in adapter.modules.items()
    ]
    rows.sort(key=lambda row: (row.index is None, row.index or 0, _natural(row.name)))
    trained = adapter.vectors.values()
    trainable = sum(info.parameters for info in trained)
    return AdapterReport(
        kind="tinylora-adapter",
        path=str(adapter.file.path),
        trainable_parameters=trainable,
        trainable_bytes=sum(info.nbytes for info in trained),
        trainable_bytes_bf16=2 * trainable,
        stored_parameters=sum(info.parameters for info in adapter.file.tensors.values()),
        tensor_bytes=sum(info.nbytes for info in adapter.file.tensors.values()),
        file_bytes=adapter.file.path.stat().st_size,
        contents=_contents(adapter),
        groups=len(adapter.vectors),
        order_from=numbering.source,
        regime=regime(adapter, loaded.provenance),
        peft_version=adapter.config.peft_version if adapter.config else None,
        base_model=adapter.config.base_model if adapter.config else None,
        config=dict(adapter.config.raw) if adapter.config else None,
        modules=rows,
        warnings=_warnings(loaded),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"\.", name)]


def _contents(adapter: PeftAdapter) -> list[Part]:
    factors = adapter.modules.values()
    replaced = {name: replacement.tensor for name, replacement in adapter.replaced.items()}
    tensors = adapter.file.tensors
    kinds: list[tuple[str, Iterable[TensorInfo]]] = [
        ("A", [f.A for f in factors]),
        ("B", [f.B for f in factors]),
        ("P", [f.P for f in factors if f.P is not None]),
        ("v", adapter.vectors.values()),
        (
            "bias",
            [*(i for name, i in replaced.items() if name.endswith(".bias")), *(tensors[k] for k in adapter.copies)],
        ),
        ("other", [info for name, info in replaced.items() if not name.endswith(".bias")]),
        ("leaked", [tensors[key] for of in adapter.leaked.values() for keys in of.values() for key in keys]),
        ("foreign", [tensors[key] for key in adapter.foreign]),
    ]
    parts = []
    for kind, infos in kinds:
        found = list(infos)
        if found or kind in "ABPv":
            parts.append(Part(kind, len(found), sum(i.parameters for i in found), sum(i.nbytes for i in found)))
    return parts


def _warnings(loaded: LoadedAdapter) -> list[str]:
    adapter = loaded.adapter
    warnings = []
    if adapter.config is None:
        warnings.append("no adapter_config.json beside the file: its seed, weight tying and PEFT version aren't known")
    warnings += problems(adapter)
    for doubt in loaded.numbering.doubts:
        warnings.append(f"{doubt.what}. {doubt.hint}" if doubt.hint else doubt.what)
    warnings += loaded.numbering.notes
    if adapter.modules and not adapter.has_projections:
        if seed_is_lost(adapter):
            warnings.append(
                "P isn't stored, and PEFT 0.19 drew it from a salted hash: nobody can reproduce this adapter. Save it "
                "with save_projection=True from the process that trained it"
            )
        else:
            warnings.append(
                "P isn't stored: PEFT draws it from projection_seed, with values that differ between machines"
            )
    elif regime(adapter, loaded.provenance) == "shared-projection":
        warnings.append(
            "all modules share one P, drawn by PEFT 0.19 from a seed that is lost: keep the stored P, and load the "
            "adapter with save_projection=True"
        )
    if adapter.leaked:
        warnings.append(
            f"the file also holds factors of {', '.join(sorted(adapter.leaked))}, which PEFT 0.19 saved along; they "
            "aren't part of this adapter"
        )
    warnings += unsaved_bias(adapter)
    return warnings + _vector_warnings(adapter)


def _vector_warnings(adapter: PeftAdapter) -> list[str]:
    vectors = {group: adapter.file.read(info.name).astype(np.float64) for group, info in adapter.vectors.items()}
    broken = [group for group, v in vectors.items() if not np.all(np.isfinite(v))]
    zero = [group for group, v in vectors.items() if not np.any(v)]
    warnings = []
    if broken:
        warnings.append(f"NaN or Inf in the trained vector of group {broken[0]}: the training diverged")
    if zero and len(zero) == len(vectors):
        warnings.append("every trained vector is zero: the adapter changes nothing")
    return warnings
