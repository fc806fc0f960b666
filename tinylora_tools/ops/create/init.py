"""A new adapter in PEFT's format, made from the files of a base checkpoint."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...bases.factoring_notes import undetermined_vectors
from ...bases.modules import Module
from ...bases.weights import Array, as_matrix, for_each, read_weight
from ...core.streams import projection
from ...core.svd.triplets import rounded_as_peft, top_triplets
from ...core.torch_arrays import array_of, check_device
from ...errors import FormatError, MismatchError, TinyLoraError
from ...formats.checkpoint import read_checkpoint
from ...formats.peft_adapter import WEIGHTS_NAMES
from ...formats.peft_config import CONFIG_NAME
from ...formats.safetensors_file import build_header
from ...formats.tensors import FLOAT_NAMES, numpy_dtype
from ...output.staging import staged_directory
from ...progress import NoProgress, Progress
from .plan import NewTensor, Plan, Settings, base_name, config_json, missing_head, open_model, plan_adapter


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


def init(
    base: Path,
    output: Path,
    settings: Settings,
    *,
    init_seed: int = 0,
    stream: str = projection.DEFAULT_STREAM,
    device: str = "cpu",
    release: str | None = None,
    module_order: Iterable[str] | None = None,
    base_model: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> InitReport:
    """Write a new adapter.

    Parameters
    ----------
    base, output : Path
    settings : Settings
    init_seed : int
        What v is drawn from where `init_weights` is "uniform"; recorded in the file's metadata.
    stream : str
        Whose arithmetic P is drawn with, of `core.projection.STREAMS`.
    device : str
    release, module_order
        As `model_modules`.
    base_model : str, optional
        What the configuration names as the base; by default the base's path.
    force : bool
        Replace an existing adapter.

    Raises
    ------
    TinyLoraError
        For a base, settings, targets or an output that don't do.
    """
    started = time.perf_counter()
    progress = progress or NoProgress()
    where = check_device(device, "Leave --device out to compute on the CPU.")
    checkpoint = read_checkpoint(base)
    task = settings.targets.task_type
    model = open_model(checkpoint, task_type=task, release=release, module_order=module_order)
    if (head := missing_head(model, settings.targets)) is not None:
        raise MismatchError(
            head,
            where=base,
            hint="Give the base its head first, with transformers: load it as the task's class, save_pretrained, and "
            "name that directory.",
        )
    plan = plan_adapter(checkpoint, model, settings)
    uniform = settings.init_weights == "uniform"
    with staged_directory(output, force=force, inputs=[base]) as directory:
        factors, undetermined = factors_of(plan, where, progress)
        metadata = {"format": "pt", **({"init_seed": str(init_seed)} if uniform else {})}
        kept = [t for t in plan.tensors if settings.save_projection or t.part != "P"]
        header, _ = build_header([(t.key, t.dtype, t.shape) for t in kept], metadata)
        path = directory / WEIGHTS_NAMES[0]
        with path.open("xb") as file:
            file.write(header)
            for tensor, values in _values(plan, kept, factors, stream, init_seed):
                file.write(np.ascontiguousarray(values).astype(numpy_dtype(tensor.dtype), copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())
            written = file.tell()
        config = config_json(settings, plan.selection, base_model or base_name(base))
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")
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


def factors_of(
    plan: Plan, device: torch.device, progress: Progress
) -> tuple[dict[str, tuple[Array, Array]], list[str]]:
    """A and B of each module, and the modules whose vectors their weights don't determine."""
    modules = plan.selection.modules
    progress.start(sum(module.tensor.nbytes for module in modules))

    def one(module: Module) -> tuple[Array, Array, bool]:
        W = as_matrix(read_weight(plan.base, module), module, device)
        try:
            found = top_triplets(W, plan.settings.rank)
        except TinyLoraError as error:
            raise FormatError(f"{module.name}: {error.what}", where=plan.base.path, hint=error.hint) from None
        A, B = rounded_as_peft(found, W.dtype)
        return array_of(A), array_of(B), bool(found.certificate.undetermined)

    factors, undetermined = {}, set()
    for module, (A, B, unclear) in for_each(modules, one, device):
        factors[module.name] = (A, B)
        if unclear:
            undetermined.add(module.name)
        progress.at(module.name)
        progress.advance(module.tensor.nbytes)
    return factors, [m.name for m in modules if m.name in undetermined]


def _values(
    plan: Plan, tensors: Iterable[NewTensor], factors: dict[str, tuple[Array, Array]], stream: str, init_seed: int
) -> Iterator[tuple[NewTensor, Array]]:
    """The tensors' values in turn."""
    settings = plan.settings
    index = {module.name: i for i, module in enumerate(plan.selection.modules)}
    vectors = iter(_vectors(plan, init_seed))
    for tensor in tensors:
        module = tensor.module
        if tensor.part == "v":
            yield tensor, next(vectors)
        elif tensor.source is not None:
            base = plan.base
            yield tensor, base.shards[base.shard_of[tensor.source.name]].read(tensor.source.name)
        elif module is None:
            raise TypeError(f"{tensor.key} is of no module")
        elif tensor.part == "P":
            seed, u, r = settings.projection_seed + index[module.name], settings.proj_dim, module.rank(settings.rank)
            P = projection.draw(seed, u, r, stream=stream)
            dtype = FLOAT_NAMES[module.tensor.dtype]
            yield tensor, projection.round_to(P, dtype) if dtype in ("bfloat16", "float16") else P
        else:
            yield tensor, factors[module.name][0 if tensor.part == "A" else 1]


def _vectors(plan: Plan, init_seed: int) -> list[Array]:
    """v of each group, in the file's order: zeros, or uniform within the bound, rounded as PEFT's are.

    Group g is drawn from the stream (init_seed, g) of NumPy's PCG64, so that it doesn't depend on the others.
    """
    settings = plan.settings
    first = {group: module for module in reversed(plan.selection.modules) for group in [plan.group[module.name]]}
    order = [int(t.key.rpartition(".")[2]) for t in plan.tensors if t.part == "v"]
    found = []
    for group in order:
        v = np.zeros(settings.proj_dim, np.float32)
        if settings.init_weights == "uniform":
            rng = np.random.Generator(np.random.PCG64([init_seed, group]))
            bound = settings.init_v_bound
            v = rng.uniform(-bound, bound, settings.proj_dim).astype(np.float32)
            dtype = FLOAT_NAMES[first[group].tensor.dtype]
            v = projection.round_to(v, dtype) if dtype in ("bfloat16", "float16") else v
        found.append(v)
    return found
