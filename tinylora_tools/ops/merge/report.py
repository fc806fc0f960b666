"""What a merge did, and what its figures mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...adapters.load import Adapter
from ...adapters.soundness import notes_of
from ...bases.base import Base
from ...core.residual import OTHER_WEIGHT, verdict_on
from ...errors import MismatchError
from ...formats.tensors import FLOAT_NAMES
from ...sources.locate import shown
from ...wording import argument
from .quantized import has_fixed_dtypes
from .words import MergePlan, NewHead
from .writing.tensor import BaseCheck, TensorResult

#: Above this share of the update lost to rounding, the merge says what to do instead.
LOST_UPDATE = 0.5


@dataclass(frozen=True, slots=True)
class MergedModule:
    """One changed tensor: its module, the norm of its update and that of the base's weight, what rounding did to the
    update as a share of its norm, and the residual of the adapter's factors on the base (None when it wasn't
    checked)."""

    name: str
    tensor: str
    delta_norm: float
    weight_norm: float
    delta_error: float
    rho: float | None


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did, or with `dry_run` would do (then nothing is known of the updates).

    `tensors_dequantized` counts the base's quantized weights that are written as plain numbers besides those that were
    merged.
    """

    output: str
    base: str
    adapters: list[str]
    dry_run: bool
    modules_merged: int
    tensors_replaced: int
    tensors_copied: int
    tensors_dequantized: int
    bytes_written: int
    seconds: float
    tied: str
    head: NewHead | None
    delta_error: float | None
    modules: list[MergedModule]
    warnings: list[str]


def report_of(
    output: Path,
    base: Base,
    adapters: Sequence[Adapter],
    plan: MergePlan,
    results: Sequence[TensorResult],
    *,
    notes: Sequence[str] = (),
    dry_run: bool,
    seconds: float,
) -> MergeReport:
    """The report of a merge; `notes` are warnings beside those on the adapters and the plan."""
    of_base = {shard.path for shard in base.checkpoint.shards}
    plain = [outcome for outcome in plan.outcomes if not outcome.updates]
    dequantized = sum(outcome.dequantized for outcome in plain)
    copied = sum(outcome.source.file.path in of_base for outcome in plain) - dequantized
    return MergeReport(
        output=str(output),
        base=base.source,
        adapters=[shown(adapter.path) for adapter in adapters],
        dry_run=dry_run,
        modules_merged=len({update.module for outcome in plan.outcomes for update in outcome.updates}),
        tensors_replaced=len(plain) - copied - dequantized,
        tensors_copied=copied,
        tensors_dequantized=dequantized,
        bytes_written=plan.size,
        seconds=round(seconds, 3),
        tied=plan.tied,
        head=plan.head,
        delta_error=share_lost(results) if results else None,
        modules=[_merged_module(result) for result in results],
        warnings=[
            *notes_of(adapters),
            *plan.warnings,
            *notes,
            *_loss_warnings(results, plan, base),
            *_base_warnings(results),
        ],
    )


def share_lost(results: Sequence[TensorResult]) -> float:
    """||(W' - W) - delta|| / ||delta|| over the given tensors; 0 where there is no update."""
    delta = math.fsum(result.delta for result in results)
    return math.sqrt(math.fsum(result.error for result in results) / delta) if delta > 0 else 0.0


def refuse_other_base(results: Sequence[TensorResult], doubt: str = "") -> None:
    """Raise MismatchError where an adapter's factors are another weight's; `doubt` says what else may be the cause."""
    for result in results:
        for check in result.checks:
            if check.rho is not None and _verdict(check) == "other":
                raise MismatchError(
                    f"{check.update.module}: the adapter's factors don't belong to this weight "
                    f"(residual {check.rho:.2g}, at most {OTHER_WEIGHT} for its own base)",
                    where=result.tensor,
                    hint=f"{doubt} ".lstrip()
                    + f"Name the base that the adapter was trained on with {argument('base')}. If you are sure that "
                    f"this is the one, {argument('verify_base', False)} skips the check.",
                )


def _verdict(check: BaseCheck) -> str:
    return verdict_on(check.rho or 0.0, check.factors_dtype, check.base_dtype)


def _merged_module(result: TensorResult) -> MergedModule:
    rhos = [check.rho for check in result.checks if check.rho is not None]
    return MergedModule(
        name=result.updates[0].module,
        tensor=result.tensor,
        delta_norm=math.sqrt(result.delta),
        weight_norm=math.sqrt(result.weight),
        delta_error=share_lost([result]),
        rho=max(rhos, default=None),
    )


def _base_warnings(results: Sequence[TensorResult]) -> list[str]:
    checks = [check for result in results for check in result.checks]
    moved = [check for check in checks if check.rho is not None and _verdict(check) == "moved"]
    if not moved:
        return []
    worst = max(moved, key=lambda check: check.rho or 0.0)
    return [
        f"{len(moved)} of {len(checks)} weights have changed since the adapter's factors were computed "
        f"({worst.update.module} most, residual {worst.rho:.2g}): is this a fine-tuned relative of its base?"
    ]


def _loss_warnings(results: Sequence[TensorResult], plan: MergePlan, base: Base) -> list[str]:
    loss = share_lost(results)
    if loss <= LOST_UPDATE:
        return []
    dtypes = sorted({info.dtype for file in plan.files for info, outcome in file.tensors if outcome.updates})
    wider = "" if has_fixed_dtypes(base.checkpoint) else f"Merge with {argument('dtype', 'float32')}, or serve"
    return [
        f"rounding to {' and '.join(FLOAT_NAMES[dtype] for dtype in dtypes)} changes the update by {loss:.0%} of its "
        f"size: it is too small for the weights' precision. {wider or 'Serve'} the adapter unmerged"
    ]
