"""Singular triplets of a base's weights, in a file that a later run reuses and an interrupted one goes on with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from .. import __version__
from ..adapters.load import ModuleOrder, order_in
from ..bases.base import Base, open_base
from ..bases.modules import Module, open_model, reduced_ranks, undetermined_vectors
from ..bases.selection import select_plain
from ..bases.weights import as_matrix, over_modules, torch_threads
from ..core.svd.triplets import Factors, top_triplets
from ..core.torch_arrays import array_of, check_device
from ..errors import FormatError, OutputError
from ..formats.checkpoint import Checkpoint
from ..formats.factors_file import PARTS, FactorsFile, metadata_of, read_factors
from ..formats.peft.config import TinyLoraConfig
from ..formats.safetensors_file import SafetensorsFile
from ..formats.safetensors_writer import write_file, write_tensors
from ..formats.tensors import fingerprint
from ..inputs import watches_inputs
from ..output.staging import lies_in, replace_hint, require_ending, resumable_file
from ..progress import NoProgress, Progress
from ..ranks import ranks
from ..sources.locate import expanded
from ..workers import Workers


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


@watches_inputs
def factor(
    base: str | Path | Base,
    output: str | Path,
    config: TinyLoraConfig | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    release: str | None = None,
    module_order: ModuleOrder = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FactorReport:
    """Compute and store the leading singular triplets of a base's weights.

    What `output`, or what an interrupted run left beside it, already holds of the same weights and rank is reused.

    Parameters
    ----------
    base : path
    output : path
        The .safetensors file to make.
    config : TinyLoraConfig, optional
        Its r, and its fields that say which modules; PEFT's defaults, where it is None.
    device, threads
        Where triplets are computed, and with how many of torch's threads.
    release, module_order
        As `count`.
    force : bool
        Replace a file that holds something else.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For a base, targets or a rank that don't do; an output that exists and is of another base or of more modules
        (without `force`), or is a file of the base's; a device that isn't there.
    """
    started = time.perf_counter()
    at, output, config = open_base(base), expanded(output), config or TinyLoraConfig()
    if config.r < 1:
        raise FormatError(f"r={config.r}, expected a positive integer")
    where = check_device(device)
    order = order_in(module_order)
    model = open_model(at, task_type=config.task_type, release=release, module_order=order, numbered=False)
    modules = select_plain(at.checkpoint, model, config).modules
    older = _older(output, at.directory, force=force)
    if older is not None and not force:
        _refuse_another(older, at.checkpoint, modules, config.r, output)
    with resumable_file(output, force=force or older is not None) as (parts, whole), torch_threads(threads):
        work = _Work(at.checkpoint, config.r, where, parts, older)
        found = _all(work, modules, output, progress or NoProgress())
        written = 0 if ranks().number else _assemble(whole, work, modules, config.r)
    return FactorReport(
        output=str(output),
        bytes_written=written,
        rank=config.r,
        device=str(where),
        modules=found,
        reused=sum(m.reused for m in found),
        seconds=time.perf_counter() - started,
        warnings=reduced_ranks(modules, config.r) + undetermined_vectors([m.name for m in found if m.undetermined]),
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
    hint = replace_hint()
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
        if facts is not None and facts["fingerprint"] == fingerprint(base.read(module.tensor.name)):
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
    found: dict[str, ModuleFactors] = {}
    try:
        with Workers(1) as hashing:
            for module, report in over_modules(
                "Factoring",
                modules,
                lambda module: _one(work, module, hashing),
                device=work.device,
                progress=progress,
                where=work.base.path,
            ):
                found[module.name] = report
    except KeyboardInterrupt:
        kept = (
            f"{len(found)} of {len(modules)} modules are kept beside {output}: the same command goes on with the rest"
        )
        raise KeyboardInterrupt(kept) from None
    return [found[module.name] for module in modules]


def _one(work: _Work, module: Module, hashing: Workers) -> ModuleFactors:
    started = time.perf_counter()
    stored = work.base.read(module.tensor.name)
    mark = hashing.submit(fingerprint, stored)
    may_be_known = work.older is not None or work.part(module).exists()
    if may_be_known and (known := work.known(module, mark.result())):
        file, report = known
        if file.file.path != work.part(module):
            _keep(
                work, module, {part: file.file.read(f"{module.name}.{part}") for part in PARTS}, mark.result(), report
            )
        return report
    factors = top_triplets(as_matrix(stored, module, work.device), work.rank)
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


def _keep(work: _Work, module: Module, arrays: Mapping[str, NDArray[Any]], mark: str, report: ModuleFactors) -> None:
    """Write one module's triplets beside the output, whole or not at all."""
    path = work.part(module)
    partial = path.with_suffix(".writing")
    partial.unlink(missing_ok=True)
    named = {f"{module.name}.{part}": array for part, array in arrays.items()}
    facts = {module.name: {"fingerprint": mark, **_lasting(report)}}
    write_file(partial, named, metadata_of(work.rank, facts, _versions()))
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
    values = ((key, file.read(key)) for file, key in tensors())
    return write_tensors(
        whole, [(i.name, i.dtype, i.shape) for i in infos], values, metadata_of(rank, facts, _versions())
    )
