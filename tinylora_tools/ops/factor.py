"""Singular triplets of a base's weights, in a file that a later run reuses and an interrupted one goes on with."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..bases.factoring_notes import reduced_ranks, undetermined_vectors
from ..bases.modules import Module
from ..bases.selection import Targets, select
from ..bases.tensor_names import refuse_packed
from ..bases.weights import Array, as_matrix, fingerprint, for_each, read_weight
from ..core.svd.triplets import Factors, top_triplets
from ..core.torch_arrays import array_of, check_device
from ..errors import FormatError, OutputError, TinyLoraError
from ..formats.checkpoint import Checkpoint, read_checkpoint
from ..formats.factors_file import PARTS, FactorsFile, metadata_of, read_factors
from ..formats.safetensors_file import SafetensorsFile, build_header, write_file
from ..output.staging import lies_in, require_ending, resumable_file
from ..progress import NoProgress, Progress
from .create.plan import open_model


@dataclass(frozen=True, slots=True)
class ModuleFactors:
    """How one module's triplets came about.

    `shape` is (out, in); `residual` the largest of the triplets' residuals over s_1, `gap` the smallest of their gaps
    over s_1; `undetermined` counts triplets whose vectors W doesn't determine; `spectrum` holds the first singular
    values, beyond the r that are stored as lower bounds.
    """

    name: str
    shape: list[int]
    rank: int
    method: str
    iterations: int
    residual: float
    gap: float
    undetermined: int
    singular_values: list[float]
    spectrum: list[float]
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class FactorReport:
    """All that `tinylora factor` says."""

    output: str
    bytes_written: int
    rank: int
    device: str
    modules: list[ModuleFactors]
    reused: int
    seconds: float
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class FactorOptions:
    """Which modules, how many triplets, and where they are computed."""

    rank: int = 2
    targets: Targets = field(default_factory=Targets)
    device: str = "cpu"
    threads: int | None = None
    release: str | None = None
    module_order: tuple[str, ...] | None = None
    force: bool = False


def factor(
    base: Path, output: Path, options: FactorOptions | None = None, progress: Progress | None = None
) -> FactorReport:
    """Compute and store the leading singular triplets of a base's weights.

    What `output`, or what an interrupted run left beside it, already holds of the same weights and rank is reused.

    Raises
    ------
    TinyLoraError
        For a base, targets or a rank that don't do; an output that exists and is of another base or of more modules
        (without `force`), or is a file of the base's; a device that isn't there.
    """
    started = time.perf_counter()
    options, progress = options or FactorOptions(), progress or NoProgress()
    if options.rank < 1:
        raise FormatError(f"r={options.rank}, expected a positive integer")
    device = check_device(options.device, "Leave --device out to compute on the CPU.")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint = read_checkpoint(base)
    model = open_model(
        checkpoint,
        task_type=options.targets.task_type,
        release=options.release,
        module_order=options.module_order,
        numbered=False,
    )
    modules = select(model, options.targets, base).modules
    for module in modules:
        refuse_packed(checkpoint, module.tensor.name)
    older = _older(output, base if base.is_dir() else base.parent, force=options.force)
    if older is not None and not options.force:
        _refuse_another(older, checkpoint, modules, options.rank, output)
    with resumable_file(output) as (parts, whole):
        work = _Work(checkpoint, options.rank, device, parts, older)
        found = _all(work, modules, output, progress)
        written = _assemble(whole, work, modules, options.rank)
    return FactorReport(
        output=str(output),
        bytes_written=written,
        rank=options.rank,
        device=str(device),
        modules=found,
        reused=sum(m.reused for m in found),
        seconds=time.perf_counter() - started,
        warnings=reduced_ranks(modules, options.rank) + undetermined_vectors([m.name for m in found if m.undetermined]),
    )


def _older(output: Path, beside: Path, *, force: bool) -> FactorsFile | None:
    """What an earlier run made of the output. Other files of the base's directory, `beside`, are never replaced."""
    if output.is_dir():
        raise OutputError("is a directory", where=output, hint="Name a file.")
    require_ending(output)
    if not output.exists():
        return None
    try:
        return read_factors(output)
    except FormatError as error:
        if lies_in(output, beside):
            what = f"exists already in the base's directory, where only factors are replaced, and {error.what}"
            raise OutputError(what, where=output, hint="Name another output.") from None
        if force and output.is_file():
            return None
        raise OutputError(f"exists already, and {error.what}", where=output, hint=error.hint) from None


def _refuse_another(older: FactorsFile, base: Checkpoint, modules: Sequence[Module], rank: int, output: Path) -> None:
    """Raise OutputError if the output holds what this run wouldn't write again, or nothing of this base."""
    hint = "Name another output, or replace it with --force."
    if older.rank != rank:
        raise OutputError(f"exists already and holds factors with r={older.rank}", where=output, hint=hint)
    dropped = older.modules.keys() - {module.name for module in modules}
    if dropped:
        raise OutputError(
            f"holds factors of {len(dropped)} more modules, which this run leaves out, {min(dropped)} among them",
            where=output,
            hint=f"Target them too. {hint}",
        )
    for module in modules:
        facts = older.modules.get(module.name)
        if facts is not None and facts["fingerprint"] == fingerprint(read_weight(base, module)):
            return
    raise OutputError("exists already and holds factors of other weights", where=output, hint=hint)


@dataclass(frozen=True, slots=True)
class _Work:
    base: Checkpoint
    rank: int
    device: torch.device
    parts: Path
    older: FactorsFile | None

    def part(self, module: Module) -> Path:
        """Where a module's triplets are kept until the file is made."""
        name = hashlib.sha256(module.name.encode()).hexdigest()[:32]
        return self.parts / f"{name}.safetensors"

    def known(self, module: Module, mark: str) -> tuple[FactorsFile, ModuleFactors] | None:
        """A module's triplets from an earlier run, if they are of the same weight and rank."""
        for file in (self._interrupted(module), self.older):
            if file is None or file.rank != self.rank or module.name not in file.modules:
                continue
            facts = dict(file.modules[module.name])
            names = {f.name for f in fields(ModuleFactors)}
            if facts.pop("fingerprint") == mark and facts.keys() == names - {"name", "seconds", "reused"}:
                return file, ModuleFactors(name=module.name, seconds=0.0, reused=True, **facts)
        return None

    def _interrupted(self, module: Module) -> FactorsFile | None:
        try:
            return read_factors(self.part(module))
        except (FormatError, FileNotFoundError):
            return None


def _all(work: _Work, modules: Sequence[Module], output: Path, progress: Progress) -> list[ModuleFactors]:
    progress.start(sum(module.tensor.nbytes for module in modules))
    found: dict[str, ModuleFactors] = {}
    try:
        with ThreadPoolExecutor(1) as hashing:
            for module, report in for_each(modules, lambda module: _one(work, module, hashing), work.device):
                found[module.name] = report
                progress.at(module.name)
                progress.advance(module.tensor.nbytes)
    except KeyboardInterrupt:
        kept = (
            f"{len(found)} of {len(modules)} modules are kept beside {output}: the same command goes on with the rest"
        )
        raise KeyboardInterrupt(kept) from None
    return [found[module.name] for module in modules]


def _one(work: _Work, module: Module, hashing: ThreadPoolExecutor) -> ModuleFactors:
    started = time.perf_counter()
    stored = read_weight(work.base, module)
    mark = hashing.submit(fingerprint, stored)
    may_be_known = work.older is not None or work.part(module).exists()
    if may_be_known and (known := work.known(module, mark.result())):
        file, report = known
        if file.file.path != work.part(module):
            _keep(
                work, module, {part: file.file.read(f"{module.name}.{part}") for part in PARTS}, mark.result(), report
            )
        return report
    try:
        factors = top_triplets(as_matrix(stored, module, work.device), work.rank)
    except TinyLoraError as error:
        raise FormatError(f"{module.name}: {error.what}", where=work.base.path, hint=error.hint) from None
    report = _report(module, factors, time.perf_counter() - started)
    arrays = {part: array_of(getattr(factors, part)) for part in PARTS}
    _keep(work, module, arrays, mark.result(), report)
    return report


def _report(module: Module, factors: Factors, seconds: float) -> ModuleFactors:
    certificate = factors.certificate
    return ModuleFactors(
        name=module.name,
        shape=[module.out_features, module.in_features],
        rank=len(factors.S),
        method=certificate.method,
        iterations=certificate.iterations,
        residual=max(certificate.residuals),
        gap=min(certificate.gaps),
        undetermined=len(certificate.undetermined),
        singular_values=factors.S.tolist(),
        spectrum=list(factors.spectrum),
        seconds=seconds,
        reused=False,
    )


def _keep(work: _Work, module: Module, arrays: Mapping[str, Array], mark: str, report: ModuleFactors) -> None:
    """Write one module's triplets beside the output, whole or not at all."""
    path = work.part(module)
    partial = path.with_suffix(".writing")
    partial.unlink(missing_ok=True)
    named = {f"{module.name}.{part}": array for part, array in arrays.items()}
    facts = {module.name: {"fingerprint": mark, **_lasting(report)}}
    write_file(partial, named, metadata_of(work.rank, facts, _versions()), flush=False)
    partial.replace(path)


def _lasting(report: ModuleFactors) -> dict[str, Any]:
    """What of a report stays true in another run."""
    return {key: value for key, value in asdict(report).items() if key not in ("name", "seconds", "reused")}


def _versions() -> dict[str, str]:
    return {"tinylora_tools": __version__, "torch": torch.__version__}


def _assemble(whole: Path, work: _Work, modules: Iterable[Module], rank: int) -> int:
    """Write the file from its parts, one tensor in memory at a time; returns its size."""
    files = [(module.name, read_factors(work.part(module))) for module in modules]
    facts = {name: file.modules[name] for name, file in files}

    def tensors() -> Iterator[tuple[SafetensorsFile, str]]:
        for name, file in files:
            for part in PARTS:
                yield file.file, f"{name}.{part}"

    infos = [file.tensors[key] for file, key in tensors()]
    header, _ = build_header([(i.name, i.dtype, i.shape) for i in infos], metadata_of(rank, facts, _versions()))
    with whole.open("xb") as out:
        out.write(header)
        for file, key in tensors():
            out.write(file.read(key).tobytes())
        out.flush()
        os.fsync(out.fileno())
        return out.tell()
