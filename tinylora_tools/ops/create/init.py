"""A new adapter in PEFT's format, made from the files of a base checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...adapters.load import ModuleOrder, order_in
from ...adapters.write import stream_adapter
from ...bases.base import Base, open_base
from ...bases.modules import Module, undetermined_vectors
from ...bases.weights import as_matrix, over_modules, torch_threads
from ...checks import at_least, dtype_named
from ...core.initial import uniform_vector
from ...core.streams import projection
from ...core.svd.triplets import rounded_as_peft, top_triplets
from ...core.torch_arrays import array_of, check_device
from ...errors import MismatchError
from ...formats.peft.adapter import Factors
from ...formats.peft.config import TinyLoraConfig
from ...formats.tensors import FLOAT_NAMES, numpy_dtype
from ...inputs import watches_inputs
from ...output.staging import check_output, staged_directory
from ...progress import NoProgress, Progress
from ...sources.locate import expanded
from .plan import NewTensor, Plan, missing_head, model_for, plan_adapter, require_kinds


@dataclass(frozen=True, slots=True)
class InitReport:
    """All that `tinylora init` says."""

    output: str
    bytes_written: int
    trainable_parameters: int
    modules: int
    groups: int
    init_seed: int | None
    stream: str
    undetermined: list[str]
    seconds: float
    warnings: list[str]


@watches_inputs
def init(
    base: str | Path | Base,
    output: str | Path,
    config: TinyLoraConfig | None = None,
    *,
    init_seed: int = 0,
    stream: str = projection.DEFAULT_STREAM,
    device: str = "cpu",
    threads: int | None = None,
    release: str | None = None,
    module_order: ModuleOrder = None,
    adapter_dtype: str = "float32",
    force: bool = False,
    progress: Progress | None = None,
) -> InitReport:
    """Write a new adapter, as PEFT's save_pretrained does right after get_peft_model.

    Parameters
    ----------
    base : path
    output : path
        The directory to make.
    config : TinyLoraConfig, optional
        PEFT's defaults, where it is None; what it doesn't say of the base is the base's path, or its name on the Hub.
    init_seed : int
        What v is drawn from where `init_weights` is "uniform"; recorded in the file's metadata.
    stream : str
        Whose arithmetic P is drawn with.
    device, threads
        Where factors are computed, and with how many of torch's threads.
    release, module_order, adapter_dtype
        As `count`.
    force : bool
        Replace an existing adapter.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For a base, settings, targets or an output that don't do.
    """
    started = time.perf_counter()
    at_least("init_seed", init_seed, 0)
    adapter_dtype = dtype_named("adapter_dtype", adapter_dtype, "auto")
    where, output = check_device(device), expanded(output)
    at, config, progress = open_base(base), config or TinyLoraConfig(), progress or NoProgress()
    check_output(output, force=force, inputs=[at.path])
    model = model_for(at, config, release=release, module_order=order_in(module_order))
    if (head := missing_head(model, config)) is not None:
        raise MismatchError(
            head,
            where=at.path,
            hint="Give the base its head first, with transformers: load it as the task's class, save_pretrained, and "
            "name that directory.",
        )
    plan = plan_adapter(at, model, config, adapter_dtype)
    require_kinds(plan)
    uniform = config.init_weights == "uniform"
    kept = plan.kept(projection=config.save_projection)
    with staged_directory(output, force=force, inputs=[at.path]) as directory, torch_threads(threads):
        factors, undetermined = factors_of(plan, where, progress)
        written = stream_adapter(
            directory,
            [(tensor.key, tensor.dtype, tensor.shape) for tensor in kept],
            _values(plan, kept, factors, stream, init_seed),
            plan.config.to_json(),
            {"init_seed": str(init_seed)} if uniform else {},
        )
    return InitReport(
        output=str(output),
        bytes_written=written,
        trainable_parameters=sum(t.parameters for t in plan.tensors if t.part == "v"),
        modules=len(plan.selection.modules),
        groups=plan.groups,
        init_seed=init_seed if uniform else None,
        stream=stream,
        undetermined=undetermined,
        seconds=time.perf_counter() - started,
        warnings=[*plan.warnings, *undetermined_vectors(undetermined)],
    )


def factors_of(plan: Plan, device: torch.device, progress: Progress) -> tuple[dict[str, Factors], list[str]]:
    """A and B of each module, and the modules whose vectors their weights don't determine."""
    base, modules = plan.base, plan.selection.modules

    def one(module: Module) -> tuple[Factors, bool]:
        W = as_matrix(base.checkpoint.read(module.tensor.name), module, device)
        W = W.float() if module.widened else W
        found = top_triplets(W, plan.config.r)
        A, B = rounded_as_peft(found, W.dtype)
        return Factors(array_of(A), array_of(B)), bool(found.certificate.undetermined)

    found = {
        module.name: result
        for module, result in over_modules("Factoring", modules, one, device=device, progress=progress, where=base.path)
    }
    return {name: factors for name, (factors, _) in found.items()}, [m.name for m in modules if found[m.name][1]]


def _values(
    plan: Plan, tensors: list[NewTensor], factors: Mapping[str, Factors], stream: str, init_seed: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors' values in turn, by their keys."""
    projections = _projections(plan, stream) if any(tensor.part == "P" for tensor in tensors) else {}
    for tensor in tensors:
        values = _value(plan, tensor, projections, factors, init_seed)
        yield tensor.key, values.astype(numpy_dtype(tensor.dtype), copy=False)


def _value(
    plan: Plan,
    tensor: NewTensor,
    projections: Mapping[str, NDArray[Any]],
    factors: Mapping[str, Factors],
    init_seed: int,
) -> NDArray[Any]:
    module = tensor.module
    if tensor.source is not None:
        return plan.base.checkpoint.read(tensor.source.name)
    if module is None:
        return _vector(plan, int(tensor.key.rpartition(".")[2]), init_seed)
    if tensor.part == "P":
        return projections[module.name]
    A, B = factors[module.name]
    return A if tensor.part == "A" else B


def _projections(plan: Plan, stream: str) -> dict[str, NDArray[Any]]:
    """P (u, r, r) of each module."""
    config, modules = plan.config, plan.selection.modules
    seeds = range(config.projection_seed, config.projection_seed + len(modules))
    ranks, dtypes = [one.rank(config.r) for one in modules], [FLOAT_NAMES[one.dtype] for one in modules]
    drawn = projection.draw_rounded(seeds, config.u, ranks, dtypes, stream=stream)
    return {module.name: P for module, P in zip(modules, drawn, strict=True)}


def _vector(plan: Plan, group: int, init_seed: int) -> NDArray[Any]:
    """v of a group (u,): zeros, or uniform within the bound, rounded as PEFT's are."""
    config = plan.config
    if config.init_weights != "uniform":
        return np.zeros(config.u, np.float32)
    v = uniform_vector(config.u, config.init_v_bound, init_seed, group)
    first = next(module for module in plan.selection.modules if plan.group[module.name] == group)
    dtype = FLOAT_NAMES[first.dtype]
    return projection.round_to(v, dtype) if dtype in ("bfloat16", "float16") else v
