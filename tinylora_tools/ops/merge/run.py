"""Merge TinyLoRA adapters into a base checkpoint, at about the speed of a copy and in little memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...adapters.load import LoadedAdapter, find_base, load_adapter, unsaved_bias
from ...bases import architecture as architectures
from ...core.base_check import OTHER_WEIGHT, moved_above
from ...core.block_sum import NumpyBlockAdder
from ...errors import MismatchError, OutputError
from ...formats.checkpoint import SAFETENSORS_INDEX, read_checkpoint
from ...formats.tensors import FLOAT_NAMES
from ...output.companions import copy_model_files, model_card, write_file
from ...output.staging import check_output, staged_directory
from ...progress import NoProgress, Progress
from .plan import plan_merge
from .tensor import TensorResult
from .words import MergePlan
from .write import MakeAdder, MergeWriter

#: Above this share of the update lost to rounding, the merge says what to do instead.
LOST_UPDATE = 0.5


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How to merge. `scales` has one for each adapter; `threads` None means all cores, up to eight."""

    scales: tuple[float, ...] = ()
    dtype: str = "auto"
    tied: str = "untie"
    device: str = "cpu"
    threads: int | None = None
    verify_base: bool = True
    force: bool = False
    dry_run: bool = False
    module_order: tuple[str, ...] | None = None
    release: str | None = None


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One changed tensor: its module, the norm of its update, what rounding did to that as a share of the norm,
    and the residual of the adapter's factors on the base (None when it wasn't checked)."""

    name: str
    tensor: str
    delta_norm: float
    delta_error: float
    rho: float | None


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did, or with `dry_run` would do (then nothing is known of the updates)."""

    output: str
    base: str
    adapters: list[str]
    dry_run: bool
    modules_merged: int
    tensors_replaced: int
    tensors_copied: int
    bytes_written: int
    seconds: float
    tied: str
    delta_error: float | None
    modules: list[ModuleReport]
    warnings: list[str]


def merge(
    adapters: Sequence[Path],
    output: Path,
    base: Path | None = None,
    options: MergeOptions | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Write a copy of the base checkpoint with the adapters' updates added to its weights.

    Parameters
    ----------
    adapters : sequence of Path
        Directories or files of TinyLoRA adapters; their updates are summed.
    output : Path
        The directory to make.
    base : Path, optional
        The base's directory; where it is None, the one that the adapters name, if it is at hand.
    options : MergeOptions, optional
    progress : Progress, optional

    Returns
    -------
    MergeReport

    Raises
    ------
    TinyLoraError
        For whatever can't be merged faithfully. Nothing stands under the output's name then.
    """
    started = time.perf_counter()
    options, progress = options or MergeOptions(), progress or NoProgress()
    base_path = find_base(base, adapters)
    inputs = [base_path, *adapters]
    check_output(output, force=options.force, inputs=inputs)
    checkpoint = read_checkpoint(base_path)
    config = checkpoint.config
    loaded = [load_adapter(path, base_config=config or {}, module_order=options.module_order) for path in adapters]
    architecture = architectures.from_config(config) if config else loaded[0].architecture
    scales = options.scales or (1.0,) * len(loaded)
    with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused when it is written
        plan = plan_merge(
            checkpoint,
            list(zip(loaded, scales, strict=True)),
            architecture,
            dtype=options.dtype,
            tied=options.tied,
            release=options.release,
        )
    _check_space(output, plan.size)
    warnings = [*plan.warnings, *_adapter_warnings(loaded)]
    results: list[TensorResult] = []
    if not options.dry_run:
        with staged_directory(output, force=options.force, inputs=inputs) as directory:
            results = _write(directory, plan, options, progress)
            warnings += _loss_warnings(results, plan) + _base_warnings(results)
            copy_model_files(base_path, directory)
            if plan.index is not None:
                write_file(directory / SAFETENSORS_INDEX, plan.index)
            if plan.config and config is not None:
                text = json.dumps({**config, **plan.config}, indent=2, ensure_ascii=False) + "\n"
                write_file(directory / "config.json", text.encode())
            card = model_card(base_path, [item.adapter for item in loaded], scales, plan, _loss(results))
            write_file(directory / "README.md", card.encode())
    of_base = {shard.path for shard in checkpoint.shards}
    merged = {update.module for outcome in plan.outcomes for update in outcome.updates}
    plain = [outcome for outcome in plan.outcomes if not outcome.updates]
    copied = sum(outcome.source.file.path in of_base for outcome in plain)
    return MergeReport(
        output=str(output),
        base=str(base_path),
        adapters=[str(path) for path in adapters],
        dry_run=options.dry_run,
        modules_merged=len(merged),
        tensors_replaced=len(plain) - copied,
        tensors_copied=copied,
        bytes_written=plan.size,
        seconds=round(time.perf_counter() - started, 3),
        tied=plan.tied,
        delta_error=_loss(results) if results else None,
        modules=[_module_report(result) for result in results],
        warnings=warnings,
    )


def _write(directory: Path, plan: MergePlan, options: MergeOptions, progress: Progress) -> list[TensorResult]:
    threads = options.threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    progress.start(plan.size)
    with MergeWriter(
        directory,
        threads=threads,
        make_adder=_adder_for(options.device),
        check_base=options.verify_base,
        progress=progress,
    ) as writer:
        for file in plan.files:
            before = len(writer.results)
            writer.write(file)
            _refuse_other_base(writer.results[before:])
        return writer.results


def _adder_for(device: str) -> MakeAdder:
    if device == "cpu":
        return NumpyBlockAdder
    from ...core.block_sum_torch import TorchBlockAdder
    from ...core.torch_arrays import check_device

    found = check_device(device, "Merge on the CPU (leave --device out): the bytes are the same.")
    return lambda _elements, dtype: TorchBlockAdder(dtype, found)


def _refuse_other_base(results: Sequence[TensorResult]) -> None:
    for result in results:
        for check in result.checks:
            if check.rho is not None and check.rho > OTHER_WEIGHT:
                raise MismatchError(
                    f"{check.update.module}: the adapter's factors don't belong to this weight "
                    f"(residual {check.rho:.2g}, at most {OTHER_WEIGHT} for its own base)",
                    where=result.tensor,
                    hint="Name the base that the adapter was trained on with --base. If you are sure that this is the "
                    "one, --no-verify-base skips the check.",
                )


def _base_warnings(results: Sequence[TensorResult]) -> list[str]:
    moved = [
        check
        for result in results
        for check in result.checks
        if check.rho is not None and check.rho > moved_above(check.factors_dtype, check.base_dtype)
    ]
    if not moved:
        return []
    worst = max(moved, key=lambda check: check.rho or 0.0)
    total = sum(len(result.checks) for result in results)
    return [
        f"{len(moved)} of {total} weights have changed since the adapter's factors were computed "
        f"({worst.update.module} most, residual {worst.rho:.2g}): is this a fine-tuned relative of its base?"
    ]


def _adapter_warnings(loaded: Sequence[LoadedAdapter]) -> list[str]:
    warnings = []
    for item in loaded:
        adapter = item.adapter
        warnings += [f"{adapter.path.name}: {note}" for note in item.numbering.notes]
        if not adapter.has_projections:
            warnings.append(
                f"{adapter.path.name}: P isn't stored and was drawn again from its seed, as on an x86-64 machine with "
                "AVX2; other machines draw values that differ by rounding"
            )
        if adapter.leaked:
            warnings.append(
                f"{adapter.path.name}: the file also holds factors of {', '.join(sorted(adapter.leaked))}, another "
                "adapter that PEFT 0.19 saved along; they were left out"
            )
        warnings += unsaved_bias(adapter)
    return warnings


def _loss(results: Sequence[TensorResult]) -> float:
    """||(W' - W) - delta|| / ||delta|| over the given tensors; 0 where there is no update."""
    delta = math.fsum(result.delta for result in results)
    return math.sqrt(math.fsum(result.error for result in results) / delta) if delta > 0 else 0.0


def _loss_warnings(results: Sequence[TensorResult], plan: MergePlan) -> list[str]:
    loss = _loss(results)
    if loss <= LOST_UPDATE:
        return []
    dtypes = sorted({info.dtype for file in plan.files for info, outcome in file.tensors if outcome.updates})
    return [
        f"rounding to {' and '.join(FLOAT_NAMES[dtype] for dtype in dtypes)} changes the update by {loss:.0%} of its "
        "size: it is too small for the weights' precision. Merge with --dtype float32, or serve the adapter unmerged"
    ]


def _module_report(result: TensorResult) -> ModuleReport:
    rhos = [check.rho for check in result.checks if check.rho is not None]
    return ModuleReport(
        name=result.updates[0].module,
        tensor=result.tensor,
        delta_norm=math.sqrt(result.delta),
        delta_error=_loss([result]),
        rho=max(rhos, default=None),
    )


def _check_space(output: Path, size: int) -> None:
    existing = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise OutputError(
            f"the merged model takes {size:,} bytes, and {existing} has {free:,} left",
            where=output,
            hint="Free some space, or write to another disk.",
        )
