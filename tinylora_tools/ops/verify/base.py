"""Do an adapter's factors belong to a base?

Two thin products per weight tell it down to the rounding of the factors (`core.residual`). Where they see nothing wrong
the factors are computed anew from the weight: those of the very weight agree bit for bit but for a few entries, those
of a weight that moved by a thousandth in nine of ten entries only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ...adapters.load import named_base
from ...bases import architecture as architectures
from ...bases.modules import Module
from ...bases.orientation import is_transposed
from ...bases.tensor_names import BaseNames, refuse_packed, refuse_quantized
from ...bases.weights import Array, as_matrix, for_each, read_weight
from ...core.base_check import OTHER_WEIGHT, moved_above
from ...core.lowrank import training_dtype
from ...core.residual import Triplets, residual_of
from ...core.svd.recomputed import Recomputed, recompute
from ...core.torch_arrays import check_device
from ...errors import MismatchError, TinyLoraError
from ...formats.checkpoint import Checkpoint, read_checkpoint
from ...formats.peft_adapter import Factors as StoredFactors
from ...formats.peft_adapter import PeftAdapter, read_adapter
from ...formats.tensors import FLOAT_NAMES
from ...progress import NoProgress, Progress

Verdict = Literal["same-base", "other-dtype", "fine-tuned", "other-model", "unknown"]

#: From good to bad; the worst of the modules' verdicts is the adapter's.
_ORDER: tuple[Verdict, ...] = ("unknown", "same-base", "other-dtype", "fine-tuned", "other-model")


@dataclass(frozen=True, slots=True)
class ModuleVerdict:
    """One module's check.

    `rho` is its residual over s_1, None where the factors are zero or are of another shape; `agreement` the share of
    the entries of A and B that a recomputation gives bit for bit (for 16-bit factors), None where none was made;
    `difference` the largest distance of a recomputed vector; `gap` the smallest distance between singular values over
    s_1.
    """

    name: str
    verdict: Verdict
    rho: float | None
    agreement: float | None
    difference: float | None
    gap: float | None
    factors_dtype: str
    base_dtype: str
    note: str


@dataclass(frozen=True, slots=True)
class BaseReport:
    """All that `tinylora verify-base` says."""

    adapter: str
    base: str
    verdict: Verdict
    ok: bool
    modules: list[ModuleVerdict]
    recomputed: int
    largest_rho: float | None
    seconds: float


def verify_base(
    adapter_path: Path, base: Path | None, *, device: str = "cpu", progress: Progress | None = None
) -> BaseReport:
    """Check every module's factors against the base's weight.

    Raises
    ------
    MismatchError
        If no base is named and the adapter's own isn't at hand.
    UnsupportedError
        For a quantized base, or a device that isn't there.
    """
    started = time.perf_counter()
    progress = progress or NoProgress()
    where = check_device(device, "Leave --device out to compute on the CPU.")
    adapter = read_adapter(adapter_path)
    base = base or named_base(adapter)
    if base is None:
        raise MismatchError(
            "the adapter's base isn't at hand",
            where=adapter_path,
            hint="Name it with --base DIR or --base hf://owner/name.",
        )
    checkpoint = read_checkpoint(base)
    refuse_quantized(checkpoint)
    architecture = architectures.from_config(checkpoint.config) if checkpoint.config else None
    names = BaseNames(checkpoint, architecture)
    found: dict[str, ModuleVerdict] = {}
    there: list[Module] = []
    for name, parts in adapter.modules.items():
        try:
            there.append(_module(names, adapter, name, parts))
        except MismatchError as error:
            found[name] = _absent(adapter, name, error)
    progress.start(sum(module.tensor.nbytes for module in there))
    for module, verdict in for_each(there, lambda m: _check(checkpoint, adapter, m, where), where):
        found[module.name] = verdict
        progress.at(module.name)
        progress.advance(module.tensor.nbytes)
    modules = [found[name] for name in adapter.modules]
    worst: Verdict = max((m.verdict for m in modules), key=_ORDER.index, default="unknown")
    return BaseReport(
        adapter=str(adapter_path),
        base=str(base),
        verdict=worst,
        ok=worst in ("same-base", "other-dtype"),
        modules=modules,
        recomputed=sum(m.difference is not None for m in modules),
        largest_rho=max((m.rho for m in modules if m.rho is not None), default=None),
        seconds=time.perf_counter() - started,
    )


def _module(names: BaseNames, adapter: PeftAdapter, name: str, parts: StoredFactors) -> Module:
    key = names.group(f"{name}.weight").stored
    refuse_packed(names.base, key)
    expected = (parts.out_features, parts.in_features)
    transposed = is_transposed(names, adapter, name, expected, key)
    return Module(name, "Conv1D" if transposed else "Linear", names.base.info(key))


def _absent(adapter: PeftAdapter, name: str, error: TinyLoraError) -> ModuleVerdict:
    parts = adapter.modules[name]
    stored = (adapter.file.read(parts.A.name), adapter.file.read(parts.B.name))
    return ModuleVerdict(name, "other-model", None, None, None, None, training_dtype(*stored), "", error.what)


def _check(base: Checkpoint, adapter: PeftAdapter, module: Module, device: torch.device) -> ModuleVerdict:
    parts = adapter.modules[module.name]
    A, B = (adapter.file.read(info.name) for info in (parts.A, parts.B))
    factors_dtype, base_dtype = training_dtype(A, B), FLOAT_NAMES[module.tensor.dtype]
    stored = read_weight(base, module)
    triplets = Triplets.from_factors(A, B, np.dtype(np.float32))

    def verdict(what: Verdict, rho: float | None, note: str = "", found: Recomputed | None = None) -> ModuleVerdict:
        agreement, difference, gap = (found.agreement, found.difference, found.gap) if found else (None, None, None)
        return ModuleVerdict(module.name, what, rho, agreement, difference, gap, factors_dtype, base_dtype, note)

    if not triplets.S.size:
        zero = not np.any(stored)
        return verdict("same-base" if zero else "other-model", None, "the factors are zero, as those of a zero weight")
    rho = residual_of(stored, triplets.transposed() if module.kind == "Conv1D" else triplets)
    if not rho <= OTHER_WEIGHT:
        return verdict("other-model", rho)
    if rho > moved_above(factors_dtype, base_dtype):
        return verdict("fine-tuned", rho)
    if factors_dtype == "float32" and base_dtype in ("bfloat16", "float16"):
        return verdict("other-dtype", rho, "the weight's rounding hides smaller changes")
    same_dtype = factors_dtype == base_dtype or (factors_dtype, base_dtype) == ("float32", "float64")
    rounded = stored if same_dtype else _rounded(stored, factors_dtype)
    found = recompute(as_matrix(rounded, module, device), A, B, factors_dtype)
    if not found.determined:
        return verdict("same-base" if same_dtype else "other-dtype", rho, "close singular values: not settled", found)
    if not found.same:
        if {factors_dtype, base_dtype} == {"bfloat16", "float16"}:
            return verdict("other-dtype", rho, "two roundings hide smaller changes", found)
        return verdict("fine-tuned", rho, found=found)
    return verdict("same-base" if same_dtype else "other-dtype", rho, found=found)


def _rounded(stored: Array, dtype: str) -> Array:
    """The weight as it was when the factors were made of it."""
    import ml_dtypes

    target = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(over="ignore"):
        return stored.astype(target)


def by_verdict(report: BaseReport) -> Mapping[Verdict, int]:
    """How many modules have each verdict, the worst first."""
    counts = {verdict: sum(m.verdict == verdict for m in report.modules) for verdict in reversed(_ORDER)}
    return {verdict: count for verdict, count in counts.items() if count}
