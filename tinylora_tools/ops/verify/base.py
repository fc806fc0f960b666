"""Do an adapter's factors belong to a base?

Two thin products per weight tell it down to the rounding of the factors (`core.residual`). Where they see nothing wrong
the factors are computed anew from the weight: those of the very weight agree bit for bit but for a few entries, those
of a weight that moved by a thousandth in nine of ten entries only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...adapters import soundness
from ...adapters.load import Adapter
from ...adapters.source import PACKED, find_source, name_the_base
from ...bases.base import Base, open_base
from ...bases.modules import Module
from ...bases.orientation import factored_as_stored, is_transposed
from ...bases.quantization import plain_group
from ...bases.scaled_weight import ScaledWeight
from ...bases.tensor_names import BaseNames
from ...bases.weights import as_matrix, over_modules, torch_threads
from ...core.lowrank import training_dtype
from ...core.residual import Triplets, verdict_on
from ...core.residual_torch import residual_of
from ...core.svd.recomputed import Recomputed, recompute
from ...core.torch_arrays import check_device
from ...errors import MismatchError, TinyLoraError, UndeterminedError, UnsupportedError
from ...formats.checkpoint import Checkpoint
from ...formats.tensors import FLOAT_NAMES
from ...progress import NoProgress, Progress
from ...sources.locate import shown
from ...wording import argument
from ..opened import AdapterLike
from .recorded import Comparison, Record, TensorDifference, compare_with_records, manifests_of, merged_already

Verdict = Literal["same-weights", "other-dtype", "fine-tuned", "other-model", "unknown"]

_NO_RECORD = (
    "nothing at hand records the base's tensors: {} names a model that was merged from it with a manifest, "
    "and what comes from the Hub (hf://owner/name) has the Hub's digests"
)

#: From good to bad; the worst of the modules' verdicts is the adapter's.
_ORDER: tuple[Verdict, ...] = ("same-weights", "other-dtype", "unknown", "fine-tuned", "other-model")


@dataclass(frozen=True, slots=True)
class ModuleVerdict:
    """One module's check.

    `tensor` is the base's weight that the factors were compared with, None where none could be. `rho` is its residual
    over s_1, None where the factors are zero or are of another shape; `agreement` the share of the entries of A and B
    that a recomputation gives bit for bit (for 16-bit factors), None where none was made; `difference` the largest
    distance of a recomputed vector; `gap` the smallest distance between singular values over s_1.
    """

    name: str
    verdict: Verdict
    tensor: str | None
    rho: float | None
    agreement: float | None
    difference: float | None
    gap: float | None
    factors_dtype: str
    base_dtype: str
    note: str


@dataclass(frozen=True, slots=True)
class BaseReport:
    """All that `tinylora verify-base` says.

    `verdict` is on the targeted weights alone. `tensors` counts the base's; `records` are what every one of them was
    compared with (`all_tensors`), as far as they are recorded, `differences` what isn't as it was recorded.
    `not_compared` names the tensors that weren't compared: with a record, where that was asked, else with factors. `ok`
    is the answer to what was asked.
    """

    adapter: str
    base: str
    verdict: Verdict
    ok: bool
    all_tensors: bool
    tensors: int
    records: list[Record]
    differences: list[TensorDifference]
    not_compared: list[str]
    modules: list[ModuleVerdict]
    recomputed: int
    largest_rho: float | None
    seconds: float
    warnings: list[str]


def verify_base(
    adapter: AdapterLike,
    base: str | Path | Base | None = None,
    *,
    all_tensors: bool = False,
    against: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> BaseReport:
    """Check every module's factors against the base's weight; and every tensor against a record, if that is asked.

    Parameters
    ----------
    adapter : path, or open adapter
    base : path, optional
        By default the one that the adapter names, if it is at hand.
    all_tensors : bool
        Compare every tensor, bit for bit, with what is recorded of it: by the manifest in the base's directory, where
        that is a merged model's, by the Hub, of files that came from it, or by a packed adapter. What nothing records
        is said to be not compared, and the answer isn't yes then.
    against : path, optional
        A merged model with a manifest, or its manifest alone, that tells of the base it was merged into; asks for
        `all_tensors`.
    device, threads
        Where weights are factored, and with how many of torch's threads.
    progress : Progress, optional

    Raises
    ------
    MismatchError
        If no base is named and the adapter's own isn't at hand.
    FormatError
        If no manifest is where one is named, or one is damaged.
    UnsupportedError
        For a device that isn't there.
    """
    started = time.perf_counter()
    progress, where, source = progress or NoProgress(), check_device(device), find_source(adapter)
    at = source.named_base if base is None else open_base(base)
    if at is None or at.is_partial:
        hint = name_the_base(source.base_name)
        raise MismatchError("the adapter's base isn't at hand", where=source.path, hint=hint)
    everything = all_tensors or against is not None
    manifests = manifests_of(at, against) if everything else []
    with torch_threads(threads):
        opened = source.open(at, device=device, progress=progress)
        found, hints = _verdicts(opened, at, where, progress)
    modules = [found[name] for name in opened.modules]
    worst: Verdict = max((m.verdict for m in modules), key=_ORDER.index, default="unknown")
    seen, compared = _looked_at(modules, at), Comparison()
    if everything:
        packed = (source.path, seen) if source.form == PACKED else None
        compared = compare_with_records(at, manifests, packed, threads or 2, progress)
        hints += compared.notes if compared.records else [_NO_RECORD.format(argument("against", ...))]
        hints += merged_already(at, manifests, opened.header.file.path)
    told = compared.compared if everything else frozenset(seen)
    left = [name for name in at.checkpoint.shard_of if name not in told]
    as_recorded = not everything or not (compared.differences or left)
    return BaseReport(
        adapter=shown(opened.path),
        base=at.source,
        verdict=worst,
        ok=worst in ("same-weights", "other-dtype") and as_recorded,
        all_tensors=everything,
        tensors=len(at.checkpoint.shard_of),
        records=list(compared.records),
        differences=list(compared.differences),
        not_compared=left,
        modules=modules,
        recomputed=sum(m.difference is not None for m in modules),
        largest_rho=max((m.rho for m in modules if m.rho is not None), default=None),
        seconds=time.perf_counter() - started,
        warnings=[*soundness.described(opened), *hints],
    )


def _looked_at(modules: Sequence[ModuleVerdict], base: Base) -> list[str]:
    """The base's tensors that were compared with factors: weights, and the scales that they are read with."""
    weights = dict.fromkeys(module.tensor for module in modules if module.tensor is not None)
    scaled = (source for name in weights if isinstance(source := base.checkpoint.source(name), ScaledWeight))
    return [*weights, *(source.scale_name for source in scaled)]


def _verdicts(
    adapter: Adapter, base: Base, device: torch.device, progress: Progress
) -> tuple[dict[str, ModuleVerdict], list[str]]:
    """Each module's verdict, and what to do about those that can't be compared."""
    names = BaseNames(base.checkpoint, base.architecture)
    found: dict[str, ModuleVerdict] = {}
    hints: dict[str, str] = {}
    there: list[Module] = []
    for name in adapter.modules:
        try:
            there.append(_module(names, adapter, name))
        except UnsupportedError as error:  # quantized, say
            dtype = adapter.training_dtype(name)
            found[name] = ModuleVerdict(name, "unknown", None, None, None, None, None, dtype, "", error.what)
            hints.setdefault(error.hint or error.what, name)
        except (MismatchError, UndeterminedError) as error:
            dtype = adapter.training_dtype(name)
            # A base whose architecture isn't known may call the module otherwise.
            what: Verdict = "other-model" if base.architecture or _is_there(names, name) else "unknown"
            found[name] = ModuleVerdict(name, what, None, None, None, None, None, dtype, "", error.what)
    work = partial(_check, base.checkpoint, adapter, device)
    for module, verdict in over_modules("Verifying", there, work, device=device, progress=progress, where=base.path):
        found[module.name] = verdict
    return found, [f"{name} can't be compared. {hint}" for hint, name in hints.items()]


def _is_there(names: BaseNames, module: str) -> bool:
    """Whether the base has a weight of that name."""
    try:
        names.group(f"{module}.weight")
    except TinyLoraError:
        return False
    return True


def _module(names: BaseNames, adapter: Adapter, name: str) -> Module:
    parts, key = adapter.modules[name], plain_group(names, f"{name}.weight").stored

    def triplets() -> Triplets:
        return Triplets.from_factors(*adapter.factors(name), np.dtype(np.float32))

    transposed = is_transposed(names, name, (parts.out_features, parts.in_features), key, triplets=triplets)
    if transposed and parts.out_features == parts.in_features:
        transposed = not factored_as_stored(names.base.read(key), triplets())
    return Module(name, "Conv1D" if transposed else "Linear", names.base.info(key))


def _check(base: Checkpoint, adapter: Adapter, device: torch.device, module: Module) -> ModuleVerdict:
    A, B = adapter.factors(module.name)
    factors_dtype, base_dtype = training_dtype(A, B), FLOAT_NAMES[module.tensor.dtype]
    stored = base.read(module.tensor.name)
    triplets = Triplets.from_factors(A, B, np.dtype(np.float32))

    def verdict(what: Verdict, rho: float | None, note: str = "", found: Recomputed | None = None) -> ModuleVerdict:
        agreement, difference, gap = (found.agreement, found.difference, found.gap) if found else (None, None, None)
        figures = rho, agreement, difference, gap
        return ModuleVerdict(module.name, what, module.tensor.name, *figures, factors_dtype, base_dtype, note)

    if not triplets.S.size:
        zero = not np.any(stored)
        return verdict(
            "same-weights" if zero else "other-model", None, "the factors are zero, as those of a zero weight"
        )
    W = as_matrix(stored, module, device)
    rho = residual_of(W, triplets)
    of_residual = verdict_on(rho, factors_dtype, base_dtype)
    if of_residual != "own":
        return verdict("other-model" if of_residual == "other" else "fine-tuned", rho)
    if factors_dtype == "float32" and base_dtype in ("bfloat16", "float16"):
        return verdict("other-dtype", rho, "the weight's rounding hides smaller changes")
    same_dtype = factors_dtype == base_dtype or (factors_dtype, base_dtype) == ("float32", "float64")
    made_of = W if same_dtype else as_matrix(_rounded(stored, factors_dtype), module, device)
    found = recompute(made_of, A, B, factors_dtype)
    if not found.determined:
        return verdict(
            "same-weights" if same_dtype else "other-dtype", rho, "close singular values: not settled", found
        )
    if not found.same:
        if {factors_dtype, base_dtype} == {"bfloat16", "float16"}:
            return verdict("other-dtype", rho, "two roundings hide smaller changes", found)
        return verdict("fine-tuned", rho, found=found)
    return verdict("same-weights" if same_dtype else "other-dtype", rho, found=found)


def _rounded(stored: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The weight as it was when the factors were made of it."""
    import ml_dtypes

    target = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(over="ignore"):
        return stored.astype(target)


def by_verdict(report: BaseReport) -> Mapping[Verdict, int]:
    """How many modules have each verdict, the worst first."""
    counts = {verdict: sum(m.verdict == verdict for m in report.modules) for verdict in reversed(_ORDER)}
    return {verdict: count for verdict, count in counts.items() if count}
