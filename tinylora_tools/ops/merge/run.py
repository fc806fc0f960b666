"""Merge TinyLoRA adapters into a base checkpoint, at about the speed of a copy and in little memory."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ...adapters import soundness
from ...adapters.load import ModuleOrder, order_in
from ...adapters.source import Source, find_sources, name_the_base
from ...bases.architectures.families import given_mark
from ...bases.base import Base, open_base
from ...checks import at_least, dtype_named, one_of
from ...core.block_sum import NumpyBlockAdder
from ...errors import MismatchError, OutputError, UndeterminedError
from ...formats.checkpoint import SAFETENSORS_INDEX
from ...formats.peft.release import Seeding
from ...inputs import watches_inputs
from ...output.companions import copy_model_files, model_files
from ...output.staging import check_output, staged_directory
from ...progress import NoProgress, Progress
from ...sources.locate import expanded
from ...wording import argument
from ..opened import AdapterLike
from ..scales import one_each
from .card import card_of
from .planned import Settings, planned
from .report import MergeReport, refuse_other_base, report_of, share_lost
from .tensor import TensorResult
from .words import MergePlan
from .write import MakeAdder, MergeWriter


@watches_inputs
def merge(
    adapters: Sequence[AdapterLike] | AdapterLike,
    output: str | Path,
    base: str | Path | Base | None = None,
    *,
    scale: float | Sequence[float] = 1.0,
    dtype: str = "auto",
    tied: str = "untie",
    stream: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    verify_base: bool = True,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    release: str | None = None,
    tokenizer: str | None = None,
    manifest: bool = False,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Write a copy of the base checkpoint with the adapters' updates added to its weights.

    Parameters
    ----------
    adapters : path, open adapter, or a sequence of them
        Their updates are summed.
    output : path
        The directory to make.
    base : path, optional
        The base's directory; where it is None, the one that the adapters name, if it is at hand.
    scale : float or sequence of float
        Factor of the updates: one for all adapters, or one for each.
    dtype : "auto", "float32", "bfloat16" or "float16"
        Of all floating-point tensors; "auto" keeps each one's own.
    tied : "untie" or "share"
        Where an adapter targets one of two tied embeddings: change that one, as its forward pass does, or both.
    stream, module_order, first_adapter, seeding
        As `load_adapter`.
    device : str
        Where sums are formed; the bytes are the same everywhere.
    threads : int, optional
        All cores, up to eight, by default; the bytes are the same for every number.
    verify_base : bool
        Check the adapters' factors against the weights in passing.
    release : "4" or "5", optional
        The transformers that adapters of Gemma's embeddings were trained under.
    tokenizer : "base" or "adapter", optional
        Whose tokenizer and chat template come along: by default the base's, with a warning where one beside an adapter
        differs.
    manifest : bool
        Write the sha256 of every file and tensor of base, adapters and output beside the output, for `verify_output`.
    dry_run : bool
        Plan and check all but the values of weights; write nothing.
    force : bool
        Replace an existing model.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For whatever can't be merged faithfully. Nothing stands under the output's name then.
    """
    started = time.perf_counter()
    dtype = dtype_named("dtype", dtype, "auto")
    one_of("tied", tied, ("untie", "share"))
    one_of("release", release, (None, "4", "5"))
    one_of("tokenizer", tokenizer, (None, "base", "adapter"))
    at_least("threads", threads, 1)
    output, progress, sources = expanded(output), progress or NoProgress(), find_sources(adapters)
    scales = one_each(scale, len(sources))
    at = _common_base(sources) if base is None else open_base(base).require_directory()
    inputs = [at.path, *(path for source in sources for path in source.inputs())]
    check_output(output, force=force, inputs=inputs)
    settings = Settings(
        scales, dtype, tied, stream, order_in(module_order), _named(first_adapter), seeding, release, tokenizer,
        given_mark(),
    )  # fmt: skip
    opened, plan, chosen = planned(at, sources, settings, threads=threads, keep_weights=not dry_run, progress=progress)
    copied = model_files(at.path, chosen.tokenizer)
    _check_space(output, plan.size + sum(path.stat().st_size for path in copied.values()))
    results: list[TensorResult] = []
    if dry_run:
        for adapter in opened:
            soundness.check_factors(adapter)
    else:
        with staged_directory(output, force=force, inputs=inputs) as directory:
            copy_model_files(at.path, directory, chosen.tokenizer)
            results = _write(directory, plan, device, threads, verify_base, progress)
            _write_texts(directory, at, plan)
            card = card_of(at.path, opened, scales, plan.tied, share_lost(results), plan.head)
            (directory / "README.md").write_text(card, "utf-8")
            if manifest:
                from .verify_output import record  # which brings OpenSSL's library

                record(directory, output.name, at, opened, settings, threads or cores())
    seconds = time.perf_counter() - started
    return report_of(output, at, opened, plan, results, notes=chosen.notes, dry_run=dry_run, seconds=seconds)


def _common_base(sources: Sequence[Source]) -> Base:
    """The one base that adapters name, where they agree.

    Raises
    ------
    UndeterminedError
        If one doesn't name its base, or it isn't at hand.
    MismatchError
        If they name different ones.
    """
    found: dict[Path, Base] = {}
    for source in sources:
        base = source.named_base
        if base is None:
            name = source.base_name
            what = f"names {name!r} as its base, which isn't at hand" if name else "doesn't name its base"
            raise UndeterminedError(what, where=source.path, hint=name_the_base(name))
        found.setdefault(base.path.resolve(), base)
    if len(found) > 1:
        raise MismatchError(
            f"the adapters name different bases: {', '.join(str(base.path) for base in found.values())}",
            hint=f"Say with {argument('base')} which one to merge into.",
        )
    return next(iter(found.values()))


def _write(
    directory: Path, plan: MergePlan, device: str, threads: int | None, verify_base: bool, progress: Progress
) -> list[TensorResult]:
    progress.start("Merging", plan.size)
    with MergeWriter(
        directory,
        threads=threads or cores(),
        make_adder=adder_on(device),
        check_base=verify_base,
        progress=progress,
    ) as writer:
        for file in plan.files:
            before = len(writer.results)
            writer.write(file)
            refuse_other_base(writer.results[before:], plan.doubt)
    return writer.results


def cores() -> int:
    """How many threads, where nobody says."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def adder_on(device: str) -> MakeAdder:
    """What forms sums there."""
    if device == "cpu":
        return NumpyBlockAdder
    from ...core.block_sum_torch import TorchBlockAdder
    from ...core.torch_arrays import check_device

    found = check_device(device)
    return lambda _elements, dtype: TorchBlockAdder(dtype, found)


def _write_texts(directory: Path, base: Base, plan: MergePlan) -> None:
    """The index and the configuration, where the plan has others than the base's."""
    if plan.index is not None:
        (directory / SAFETENSORS_INDEX).write_bytes(plan.index)
    if plan.config and base.config is not None:
        gone = {key for key, value in plan.config.items() if value is None}
        config = {key: value for key, value in {**base.config, **plan.config}.items() if key not in gone}
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (directory / "config.json").write_text(text, "utf-8")


def _named(first_adapter: ModuleOrder) -> str | tuple[str, ...] | None:
    """The adapter that was first, or its modules, as it can be recorded."""
    if first_adapter is None or isinstance(first_adapter, str):
        return first_adapter
    return str(first_adapter) if isinstance(first_adapter, Path) else tuple(first_adapter)


def _check_space(output: Path, size: int) -> None:
    existing = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise OutputError(
            f"the merged model takes {size:,} bytes, and {existing} has {free:,} left",
            where=output,
            hint="Free some space, or write to another disk.",
        )
