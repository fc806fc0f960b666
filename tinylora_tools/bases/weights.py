"""The weights of targeted modules, as torch takes them: read one by one, worked on side by side where they are
small."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core.torch_arrays import tensor_of
from ..formats.checkpoint import Checkpoint
from .modules import Module

Array = np.ndarray[Any, Any]
T = TypeVar("T")

#: Bytes of weights that are worked on at the same time, several small ones or one large one; and of what their dense
#: decompositions, should they all need one, take.
_TOGETHER, _DENSE_TOGETHER = 64_000_000, 300_000_000


def read_weight(base: Checkpoint, module: Module) -> Array:
    """The weight as it is stored."""
    name = module.tensor.name
    return base.shards[base.shard_of[name]].read(name)


def as_matrix(stored: Array, module: Module, device: torch.device) -> Tensor:
    """The weight as W (out, in), which for a Conv1D is the transpose of what is stored; on the CPU its memory is
    shared."""
    W = tensor_of(stored).to(device)
    return W.T if module.kind == "Conv1D" else W


def fingerprint(stored: Array) -> str:
    """sha256 of a weight's dtype, shape and bytes as they are stored."""
    found = hashlib.sha256(f"{stored.dtype.name} {list(stored.shape)} ".encode())
    found.update(np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def for_each(
    modules: Sequence[Module], work: Callable[[Module], T], device: torch.device
) -> Iterator[tuple[Module, T]]:
    """What `work` makes of each module, in no particular order.

    Small weights, whose steps are too short to share between cores, are worked on side by side with one thread each;
    large ones, and all on a GPU, one after the other with all threads. What a weight gives doesn't depend on its
    company.
    """
    threads = torch.get_num_threads()
    together = threads if device.type == "cpu" else 1
    small = [m for m in modules if _is_small(m, together)] if together > 1 else []
    chosen = {m.name for m in small}
    if small:
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(together)
        try:
            yield from zip(small, pool.map(work, small), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
    for module in modules:
        if module.name not in chosen:
            yield module, work(module)


def _is_small(module: Module, together: int) -> bool:
    dense = 3 * 8 * min(module.tensor.shape) ** 2
    return module.tensor.nbytes * together <= _TOGETHER and dense * together <= _DENSE_TOGETHER
