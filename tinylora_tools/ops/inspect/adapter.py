"""What is in an adapter: counts, groups, modules, and what its user should know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...adapters.head import head_of
from ...adapters.load import Adapter
from ...adapters.provenance import regime
from ...adapters.soundness import check_factors, described
from ...bases.base import Base
from ...formats.digests import KEY
from ...formats.peft.adapter import PeftAdapter
from ...formats.tensors import TensorInfo
from ...sources.locate import shown
from .rounding import RoundingLoss, rounding_in
from .vectors import VectorRow, VectorSize, row_of, size_of


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of content: "A", "B", "P", "v", "bias", "other", "leaked" or "unknown"."""

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
class HeadRow:
    """The head of a classifier that the adapter holds whole: its modules, and how many labels it tells apart (None
    where its layers don't say)."""

    modules: list[str]
    labels: int | None


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """All that `tinylora inspect` says of an adapter. `trainable_*` count the vectors v alone; `digests` counts the
    tensors whose sha256 the file records, None where it records none."""

    kind: str
    path: str
    trainable_parameters: int
    trainable_bytes: int
    trainable_bytes_bf16: int
    stored_parameters: int
    tensor_bytes: int
    file_bytes: int
    digests: int | None
    contents: list[Part]
    groups: int
    vectors: VectorSize | None
    values: list[VectorRow]
    rounding: RoundingLoss | None
    head: HeadRow | None
    order_from: str
    regime: str
    peft_version: str | None
    base_model: str | None
    config: dict[str, Any] | None
    modules: list[ModuleRow]
    warnings: list[str]


def inspect_adapter(adapter: Adapter, base: Base | None = None) -> AdapterReport:
    """Describe an adapter from its headers, its vectors and its P; A and B are read only where their digests are
    recorded, and compared with them. With a base that has weights, a few modules tell what rounding would lose.

    Raises
    ------
    FormatError
        If A, B, P or v isn't as it was recorded.
    """
    check_factors(adapter)
    header, numbering = adapter.header, adapter.numbering
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
    trained, stored = header.vectors.values(), header.file.tensors.values()
    trainable = sum(info.parameters for info in trained)
    head = head_of(header)
    return AdapterReport(
        kind="tinylora-adapter",
        path=shown(header.file.path),
        trainable_parameters=trainable,
        trainable_bytes=sum(info.nbytes for info in trained),
        trainable_bytes_bf16=2 * trainable,
        stored_parameters=sum(info.parameters for info in stored),
        tensor_bytes=sum(info.nbytes for info in stored),
        file_bytes=header.file.path.stat().st_size,
        digests=len(stored) if KEY in header.file.metadata else None,
        contents=_contents(header),
        groups=len(header.vectors),
        vectors=size_of(adapter.vector(group) for group in header.vectors),
        values=[row_of(key, adapter.vector(key), [*group.values()].count(key) or None) for key in header.vectors],
        rounding=rounding_in(adapter, base) if base and base.has_weights and not base.afar else None,
        head=None if head is None else HeadRow(list(head.modules), head.labels),
        order_from=numbering.source,
        regime=regime(header, adapter.provenance),
        peft_version=adapter.config.peft_version,
        base_model=adapter.config.base_model_name_or_path,
        config=dict(adapter.config.raw) if header.has_config else None,
        modules=rows,
        warnings=described(adapter),
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
        ("unknown", [tensors[key] for key in adapter.unknown]),
    ]
    parts = []
    for kind, infos in kinds:
        found = list(infos)
        if found or kind in "ABPv":
            parts.append(Part(kind, len(found), sum(i.parameters for i in found), sum(i.nbytes for i in found)))
    return parts
