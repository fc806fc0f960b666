"""What a packed file says of an adapter on its base: tensors and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from ...adapters.load import Adapter
from ...adapters.provenance import KNOWN_STREAMS
from ...adapters.updates import projected_vectors
from ...bases.base import Base
from ...bases.canonical import canonical_of, modules_of, weights_mark
from ...bases.kept_factors import KeptFactors, KeptMark
from ...bases.modules import Module
from ...bases.orientation import is_transposed
from ...bases.tensor_names import BaseNames
from ...core.residual import Triplets
from ...core.streams import projection
from ...core.svd.entries import Canonical
from ...core.tying import group_of
from ...errors import MismatchError, UndeterminedError, UnsupportedError
from ...formats.packed import CONTENT, FORMAT, USUAL_STREAM, VERSION, content_mark, digest_of, lean_config, short
from ...formats.tensors import FLOAT_NAMES, float_dtype
from ...progress import Progress
from ...wording import argument
from .packed_factors import Restored, corrections_of, off_base, restored


@dataclass(frozen=True, slots=True)
class Packing:
    """An adapter on its base, in PEFT's order of modules.

    `told` says whether the configuration tells just these modules; `vectors` are v as they are stored, `mark` is the
    fingerprint of the weights.
    """

    adapter: Adapter
    base: Base
    modules: list[Module]
    told: bool
    dtypes: dict[str, str]
    vectors: dict[int, NDArray[Any]]
    mark: str

    @classmethod
    def of(cls, adapter: Adapter, base: Base, v_dtype: str) -> Packing:
        """An adapter beside its base; v as `pack` rounds it."""
        modules, told = _modules(base, adapter, adapter.order)
        if base.architecture is None:
            modules = [_turned(base, adapter, module) for module in modules]
        vectors = {group: _narrowed(adapter.vector(group), v_dtype, adapter.path) for group in adapter.header.vectors}
        dtypes = {module.name: adapter.training_dtype(module.name) for module in modules}
        known, mark = KeptMark(base, modules), weights_mark(base.checkpoint.read, modules)
        known.keep(mark)
        return cls(adapter, base, modules, told, dtypes, vectors, mark)

    @property
    def names(self) -> list[str]:
        return [module.name for module in self.modules]

    def canonical(self, device: torch.device, progress: Progress) -> tuple[dict[str, Canonical], list[str]]:
        """The factors that the base gives back, and a note where the adapter's are a little off its weights."""
        moved: set[str] = set()

        def check(module: Module, stored: NDArray[Any]) -> None:
            factors = self.adapter.factors(module.name)
            if off_base(factors, module, stored, self.dtypes[module.name], self.base.path):
                moved.add(module.name)

        kept = KeptFactors(self.mark, self.modules, self.adapter.config.r, self.dtypes)
        found = kept.read()
        if found is None:
            found = canonical_of(
                self.base,
                self.modules,
                self.adapter.config.r,
                self.dtypes,
                device=device,
                progress=progress,
                check=check,
            )
            kept.keep(found)
        else:
            for module in self.modules:
                check(module, self.base.checkpoint.read(module.tensor.name))
        return found, _moved([name for name in self.names if name in moved])

    def restored(self, canonical: Mapping[str, Canonical], *, exact: bool) -> list[Restored]:
        """What each module gets back."""
        R, stored_R = projected_vectors(self.adapter), projected_vectors(self.adapter, vectors=self.vectors)
        return [
            restored(self.adapter.factors(name), canonical[name], R[name], stored_R[name], exact=exact)
            for name in self.names
        ]


def content_of(work: Packing, factors: Sequence[Restored]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The file's tensors and its metadata."""
    adapter, header, names = work.adapter, work.adapter.header, work.names
    P = adapter.projections()
    own, metadata = _projections(adapter, P, names, work.dtypes)
    metadata |= {
        "format": FORMAT,
        "version": VERSION,
        "config": lean_config(adapter.config.raw),
        "weights": work.mark,
        "signs": short(np.packbits(np.concatenate([one.flipped for one in factors])).tobytes()),
        "A": digest_of(one.A for one in factors),
        "B": digest_of(one.B for one in factors),
        "P": digest_of(P[name] for name in names),
        "dtypes": _said_once([work.dtypes[name] for name in names]),
        "error": f"{max(one.error for one in factors):.1e}",
    }
    if header.has_projections != adapter.config.save_projection:
        metadata["holds_P"] = json.dumps(header.has_projections)
    if work.base.architecture is None and (turned := [i for i, m in enumerate(work.modules) if m.kind == "Conv1D"]):
        metadata["transposed"] = json.dumps(turned, separators=(",", ":"))
    if not work.told:
        metadata["modules"] = json.dumps(names, separators=(",", ":"))
    stored = _said_once([FLOAT_NAMES[adapter.modules[name].A.dtype] for name in names])
    v_stored = FLOAT_NAMES[next(iter(header.vectors.values())).dtype]
    metadata |= {key: name for key, name in (("stored", stored), ("v", v_stored)) if name != "float32"}
    groups = [adapter.groups[name] for name in names]
    if groups != [group_of(i, len(names), adapter.config.weight_tying) for i in range(len(names))]:
        metadata["groups"] = json.dumps(groups, separators=(",", ":"))
    whole = [replacement.tensor.name for replacement in header.replaced.values()]
    tensors = {
        **{f"v.{group}": v for group, v in work.vectors.items()},
        **corrections_of(factors, work.dtypes.values()),
        **{f"P.{names.index(name)}": values for name, values in own.items()},
        **{name: header.file.read(name) for name in (*whole, *header.copies)},
    }
    metadata[CONTENT] = content_mark(metadata, tensors, tensors.__getitem__)
    return tensors, metadata


def _turned(base: Base, adapter: Adapter, module: Module) -> Module:
    """A module of a base whose architecture isn't known, as a Conv1D where the adapter's factors say so."""
    parts = adapter.modules[module.name]
    transposed = is_transposed(
        BaseNames(base.checkpoint, None),
        module.name,
        (parts.out_features, parts.in_features),
        module.tensor.name,
        triplets=lambda: Triplets.from_factors(*adapter.factors(module.name), np.dtype(np.float32)),
    )
    return replace(module, kind="Conv1D") if transposed else module


def _moved(modules: Sequence[str]) -> list[str]:
    if not modules:
        return []
    more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    return [
        f"the factors of {modules[0]}{more} are a little off the base's weights: is it the very base? The file restores"
        " them all the same, by corrections"
    ]


def _modules(base: Base, adapter: Adapter, names: list[str]) -> tuple[list[Module], bool]:
    """The adapter's modules in order, and whether its configuration tells just these."""
    try:
        modules = modules_of(base, adapter.config, None, adapter.path)
        if [m.name for m in modules] == names:
            return modules, True
    except (MismatchError, UndeterminedError, UnsupportedError):
        pass
    return modules_of(base, adapter.config, names, adapter.path), False


def _projections(
    adapter: Adapter, stored: Mapping[str, NDArray[Any]], names: list[str], dtypes: Mapping[str, str]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The P that the file has to hold, and what the metadata say of the rest."""
    for stream in KNOWN_STREAMS:
        seeds = range(adapter.seed, adapter.seed + len(names))
        ranks, of = [stored[name].shape[1] for name in names], [dtypes[name] for name in names]
        drawn = projection.draw_rounded(seeds, stored[names[0]].shape[0], ranks, of, stream=stream)
        if all(P.tobytes() == stored[name].tobytes() for name, P in zip(names, drawn, strict=True)):
            return {}, {} if stream == USUAL_STREAM else {"stream": stream}
    own: dict[bytes, int] = {}  # one that several modules share is stored once, with the first of them
    for number, name in enumerate(names):
        own.setdefault(stored[name].tobytes(), number)
    of_module = [own[stored[name].tobytes()] for name in names]
    return {names[number]: stored[names[number]] for number in own.values()}, {"P_of": json.dumps(of_module)}


def _said_once(values: Sequence[str]) -> str:
    """One word where all are the same, else a JSON list."""
    return values[0] if len(set(values)) == 1 else json.dumps(list(values), separators=(",", ":"))


def _narrowed(v: NDArray[Any], v_dtype: str, where: Path) -> NDArray[Any]:
    if v_dtype == "auto":
        narrow = v.astype(ml_dtypes.bfloat16)
        return narrow if np.array_equal(narrow.astype(v.dtype), v) else v
    with np.errstate(over="ignore"):
        narrow = v.astype(float_dtype(v_dtype))
    if not np.all(np.isfinite(narrow.astype(np.float64))):
        raise MismatchError(f"v overflows {v_dtype}", where=where, hint=f"Leave {argument('v_dtype')} out.")
    return narrow
