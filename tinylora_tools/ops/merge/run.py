"""Merge TinyLoRA adapters into a base checkpoint, at about the speed of a copy and in little memory."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...adapters import soundness
from ...adapters.load import ModuleOrder, order_in
from ...adapters.source import find_sources
from ...bases.architectures.families import given_mark
from ...bases.base import Base
from ...checks import at_least, dtype_named, one_of
from ...core.block_sum import NumpyBlockAdder
from ...errors import OutputError, UnsupportedError
from ...formats.checkpoint import SAFETENSORS_INDEX
from ...formats.peft.release import Seeding
from ...inputs import watches_inputs
from ...output.companions import copy_model_files, model_files
from ...output.staging import check_output, resumable_directory, staged_directory
from ...progress import NoProgress, Progress
from ...ranks import ranks
from ...sources.locate import expanded
from ...wording import argument
from ...workers import cores
from ..opened import AdapterLike
from ..scales import one_each
from .bases import base_of
from .card import card_of
from .layout import with_blocks_alike
from .planned import Settings, planned
from .report import MergeReport, refuse_other_base, report_of, share_lost
from .tokenizer import Chosen
from .words import MergePlan
from .writing.shards import Shards, mark_of
from .writing.target import only_passes
from .writing.tensor import TensorResult
from .writing.write import MakeAdder, MergeWriter


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
    stream_base: bool = False,
    inplace_copy: str = "auto",
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
        The base's directory; where it is None, the one that the adapters name, which is downloaded if it is on the Hub.
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
    stream_base : bool
        Read the weights of a base on the Hub by ranges, as they are needed, instead of downloading them first. What an
        interrupted merge has written stays beside the output, shard by shard, and the same merge goes on from there.
    inplace_copy : "auto" or "reflink"
        With "reflink" the merged model shares what doesn't change with the base's files, block by block, so that it
        takes no space; it is refused where the file system can't do that. "auto" shares where that can be done, too,
        but makes sure of the space first.
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
    one_of("inplace_copy", inplace_copy, ("auto", "reflink"))
    one_of("tokenizer", tokenizer, (None, "base", "adapter"))
    at_least("threads", threads, 1)
    if manifest and stream_base:
        raise UnsupportedError(
            "a manifest records each tensor of the base, which would be sent twice",
            hint=f"Leave {argument('manifest', True)} or {argument('stream_base', True)} out.",
        )
    if inplace_copy == "reflink" and stream_base:
        raise UnsupportedError(
            "there is nothing on this machine to share bytes with, where the base is streamed",
            hint=f"Leave {argument('inplace_copy')} or {argument('stream_base', True)} out.",
        )
    output, progress, sources = expanded(output), progress or NoProgress(), find_sources(adapters)
    scales = one_each(scale, len(sources))
    at = base_of(sources, base, afar=stream_base)
    inputs = [at.path, *(path for source in sources for path in source.inputs())]
    check_output(output, force=force, inputs=inputs)
    settings = Settings(
        scales, dtype, tied, stream, order_in(module_order), _named(first_adapter), seeding, release, tokenizer,
        given_mark(),
    )  # fmt: skip
    opened, plan, chosen = planned(at, sources, settings, threads=threads, keep_weights=not dry_run, progress=progress)
    if inplace_copy == "reflink":
        plan = replace(plan, files=tuple(map(with_blocks_alike, plan.files)))
    results: list[TensorResult] = []
    if dry_run:
        _check_space(output, plan, at, chosen, share=inplace_copy == "reflink")
        for adapter in opened:
            soundness.check_factors(adapter)
    else:
        resumable = at.afar or ranks().count > 1
        with _staged(output, force=force, inputs=inputs, resumable=resumable) as (directory, parts):
            shards = None
            if parts:
                mark = mark_of(at, sources, settings, check=verify_base)
                shards = Shards(parts, mark, plan.files, clear=not ranks().number)
                ranks().wait()
            _check_space(output, plan, at, chosen, shards, share=inplace_copy == "reflink")
            copy_model_files(at.path, directory, chosen.tokenizer)
            with _shared_or_refused(output, at, inplace_copy):
                results = _write(
                    directory,
                    plan,
                    shards,
                    make_adder=adder_on(device),
                    threads=threads or cores(),
                    check_base=verify_base,
                    share=inplace_copy == "reflink",
                    progress=progress,
                )
            if not ranks().number:
                _write_texts(directory, at, plan)
                card = card_of(at.path, opened, scales, plan.tied, share_lost(results), plan.head)
                (directory / "README.md").write_text(card, "utf-8")
                if manifest:
                    from .verify_output import record  # which brings OpenSSL's library

                    record(directory, output.name, at, opened, settings, threads or cores())
    seconds = time.perf_counter() - started
    return report_of(output, at, opened, plan, results, notes=chosen.notes, dry_run=dry_run, seconds=seconds)


@contextmanager
def _staged(
    output: Path, *, force: bool, inputs: Sequence[Path], resumable: bool
) -> Iterator[tuple[Path, Path | None]]:
    """A directory that becomes the output, and one that shards outlast a run in, if they are to."""
    if resumable:
        with resumable_directory(output, force=force, inputs=inputs) as (parts, directory):
            yield directory, parts
    else:
        with staged_directory(output, force=force, inputs=inputs) as directory:
            yield directory, None


@contextmanager
def _shared_or_refused(output: Path, base: Base, inplace_copy: str) -> Iterator[None]:
    """Say where and what to do, where bytes can't be shared."""
    try:
        yield
    except OutputError as error:
        if inplace_copy != "reflink" or error.where is not None:
            raise
        hint = (
            f"Write to the file system of {base.path}, if it is XFS or Btrfs; or leave {argument('inplace_copy')} out."
        )
        raise OutputError(error.what, where=output, hint=hint) from None


def _write(
    directory: Path,
    plan: MergePlan,
    shards: Shards | None,
    *,
    progress: Progress,
    **given: Any,
) -> list[TensorResult]:
    mine = ranks().share([file.size for file in plan.files])
    progress.start("Merging", sum(plan.files[place].size for place in mine))
    results: list[TensorResult] = []
    past_cache = only_passes(ranks().beside * sum(plan.files[place].size for place in mine))
    where = shards.directory if shards else directory
    with MergeWriter(where, progress=progress, past_cache=past_cache, **given) as writer:
        for place, file in enumerate(plan.files):
            if place not in mine:
                continue
            if shards and file.name in shards.done:
                results += shards.done[file.name]
                progress.advance(file.size)
                continue
            before = len(writer.results)
            writer.write(file)
            refuse_other_base(writer.results[before:], plan.doubt)
            results += writer.results[before:]
            if shards:
                shards.keep(file, writer.results[before:])
    if ranks().count > 1 and shards:
        ranks().wait()
        shards = shards.as_they_are()
        results = [result for file in plan.files for result in shards.done[file.name]]
        ranks().wait()  # before they are moved
    if shards and not ranks().number:
        shards.move_to(directory, plan.files)
    return results


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


def _check_space(
    output: Path, plan: MergePlan, base: Base, chosen: Chosen, shards: Shards | None = None, *, share: bool
) -> None:
    """Raise OutputError where what is to be written, but for shards that are there already and for what is shared, has
    no room."""
    done = shards.done if shards else {}
    copied = model_files(base.path, chosen.tokenizer).values()
    size = sum(file.size for file in plan.files if file.name not in done) + sum(path.stat().st_size for path in copied)
    if share:
        size -= sum(info.nbytes for file in plan.files for info, outcome in file.tensors if outcome.is_copy(info))
    existing = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise OutputError(
            f"the merged model takes {size:,} bytes{' more' if done else ''}, and {existing} has {free:,} left",
            where=output,
            hint="Free some space, or write to another disk.",
        )
