"""What packing and unpacking share: the modules in order with their weights, and canonical factors of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.streams import projection
from ..core.svd.canonical import Canonical, canonical_factors
from ..errors import FormatError, MismatchError, TinyLoraError
from ..formats.checkpoint import Checkpoint
from ..formats.packed import CONTENT, Array
from ..formats.tensors import FLOAT_NAMES, dtype_name, float_dtype
from ..ops.create.plan import open_model
from ..progress import Progress
from . import architecture as architectures
from .modules import Module, model_modules
from .selection import Targets, select
from .weights import as_matrix, fingerprint, for_each, read_weight


def modules_of(base: Checkpoint, config: Mapping[str, Any], names: Sequence[str] | None, where: Path) -> list[Module]:
    """The modules of an adapter with this configuration, in PEFT's order: those that it selects, or the ones named.
    `where` is the file that the configuration stands in.

    Raises
    ------
    TinyLoraError
        If the base's architecture or order isn't known, or the base lacks a module.
    """
    targets = targets_of(config, where)
    task = targets.task_type
    if names is not None:
        architecture = architectures.from_config(base.config) if base.config else None
        if architecture is not None and task is not None:
            architecture = architectures.for_task(architecture, task) or architecture
        for release in (None, "4") if architecture else (None,):
            known = model_modules(base, architecture, release=release).modules
            if all(name in known for name in names):
                return [known[name] for name in names]
        absent = next(name for name in names if name not in known)
        raise MismatchError(
            f"the base has no module {absent}",
            where=base.path,
            hint="Is this the base that the adapter was packed with?",
        )
    model = open_model(base, task_type=task)
    return list(select(model, targets, base.path).modules)


def targets_of(config: Mapping[str, Any], where: Path) -> Targets:
    """The targets that an adapter_config.json says.

    Raises
    ------
    FormatError
        For what can't be a target.
    """

    def several(key: str, of: type) -> tuple[Any, ...]:
        value = config.get(key)
        found = tuple(value) if isinstance(value, list) else () if value is None else (value,)
        if not all(type(one) is of for one in found):
            raise FormatError(f"{key} is {value!r}, expected {of.__name__}s", where=where)
        return found

    wanted = config.get("target_modules")
    if not isinstance(wanted, str):
        several("target_modules", str)
    else:
        try:
            re.compile(wanted)
        except re.error as error:
            raise FormatError(f"target_modules is {wanted!r}, no regular expression: {error}", where=where) from None
    task = config.get("task_type")
    if task is not None and task not in architectures.TASK_TYPES:
        raise FormatError(f"task_type is {task!r}, expected one of {', '.join(architectures.TASK_TYPES)}", where=where)
    try:
        return Targets(
            modules=tuple(wanted) if isinstance(wanted, list) else wanted,
            modules_to_save=several("modules_to_save", str),
            layers_to_transform=several("layers_to_transform", int),
            layers_pattern=several("layers_pattern", str),
            task_type=task,
        )
    except FormatError as error:
        raise FormatError(error.what, where=where, hint=error.hint) from None


def weights_mark(base: Checkpoint, modules: Sequence[Module]) -> str:
    """One fingerprint of all target weights, in their order, from one pass over their bytes."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        marks = pool.map(lambda module: fingerprint(read_weight(base, module)), modules)
        return short(hashlib.sha256("".join(marks).encode()).digest())


def canonical_of(
    base: Checkpoint,
    modules: Sequence[Module],
    rank: int,
    dtypes: Mapping[str, str],
    device: torch.device,
    progress: Progress,
    check: Callable[[Module, Array], None] = lambda module, stored: None,
) -> dict[str, Canonical]:
    """Canonical factors of each module's weight, rounded first to the dtype that the module was trained in.

    `check` sees each weight as it is stored; it may be called from several threads.
    """
    progress.start(sum(module.tensor.nbytes for module in modules))

    def one(module: Module) -> Canonical:
        stored = read_weight(base, module)
        check(module, stored)
        if dtypes[module.name] != FLOAT_NAMES[module.tensor.dtype]:
            with np.errstate(over="ignore"):
                stored = stored.astype(float_dtype(dtypes[module.name]))
        try:
            return canonical_factors(as_matrix(stored, module, device), rank)
        except TinyLoraError as error:
            raise FormatError(f"{module.name}: {error.what}", where=base.path, hint=error.hint) from None

    found = {}
    for module, canonical in for_each(modules, one, device):
        found[module.name] = canonical
        progress.at(module.name)
        progress.advance(module.tensor.nbytes)
    return found


def drawn_projection(seed: int, u: int, r: int, dtype: str, stream: str) -> Array:
    """The P (u, r, r) that a seed draws, rounded as training in `dtype` rounds it."""
    P = projection.draw(seed, u, r, stream=stream)
    return projection.round_to(P, dtype) if dtype in ("bfloat16", "float16") else P


def digest_of(arrays: Iterable[Array]) -> str:
    """sha256 of arrays one behind the other, in float32."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array, np.float32).tobytes())
    return short(found.digest())


def content_mark(metadata: Mapping[str, str], names: Iterable[str], read: Callable[[str], Array]) -> str:
    """sha256 of all that a file holds, whatever the order: its metadata but for the mark itself, and its tensors'
    names, dtypes, shapes and bytes."""
    said = {key: value for key, value in metadata.items() if key != CONTENT}
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(names):
        array = read(name)
        found.update(json.dumps([name, dtype_name(array.dtype), array.shape]).encode())
        found.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return short(found.digest())


def short(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode().rstrip("=")


def long(text: str) -> bytes:
    """The bytes of such text; none where it is damaged."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
