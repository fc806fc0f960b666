"""The weights of targeted modules, as torch takes them: read one by one, as many worked on side by side as memory
allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import at_least
from ..core.svd.krylov import DENSE_BYTES
from ..core.torch_arrays import tensor_of
from ..errors import FormatError, TinyLoraError
from ..progress import Progress
from ..ranks import ranks
from ..workers import Workers
from .modules import Module

T = TypeVar("T")
Item = TypeVar("Item")

#: Bytes that what is worked on at the same time may take, for each thread, and in all.
_EACH_THREAD, _TOGETHER = 500_000_000, 4_000_000_000


def as_matrix(stored: NDArray[Any], module: Module, device: torch.device) -> Tensor:
    """The weight as W (out, in), which for a Conv1D is the transpose of what is stored; on the CPU its memory is
    shared."""
    W = tensor_of(stored).to(device)
    return W.T if module.kind == "Conv1D" else W


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Have torch compute with so many threads meanwhile; None leaves it to torch."""
    at_least("threads", threads, 1)
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def over_modules(
    what: str,
    modules: Sequence[Module],
    work: Callable[[Module], T],
    *,
    device: torch.device,
    progress: Progress,
    where: Path,
    side_by_side: bool = True,
) -> Iterator[tuple[Module, T]]:
    """What `work` makes of each module, in no particular order; `progress` is told of `what`, and how far it is.

    On the CPU weights are worked on side by side, by one thread each where so many may be in memory: that leaves no
    thread waiting for another at each of a hundred small steps. On a GPU they come one after the other. What a weight
    gives doesn't depend on its company. Without `side_by_side` they come one after the other, in their order. Of
    several `ranks` each works on its share, and all get what came of all.

    Raises
    ------
    TinyLoraError
        As `work` raises it, with the module's name, in the base `where`.
    """

    def named(module: Module) -> T:
        try:
            return work(module)
        except TinyLoraError as error:
            if error.where is not None:  # it says itself what it is about
                raise
            raise FormatError(f"{module.name}: {error.what}", where=where, hint=error.hint) from None

    together, mine = ranks(), list(modules)
    if together.count > 1:
        share = together.share([module.tensor.nbytes for module in modules])
        mine = [modules[place] for place in sorted(share)]
    progress.start(what, sum(module.tensor.nbytes for module in mine))
    sizes = [(module.tensor.nbytes, min(module.tensor.shape)) for module in mine]
    found: dict[str, T] = {}
    for module, result in each_of(mine, named, sizes, device=device, in_turn=not side_by_side):
        progress.at(module.name)
        progress.advance(module.tensor.nbytes)
        if together.count == 1:
            yield module, result
        else:
            found[module.name] = result
    if together.count > 1:
        every = {name: result for one in together.gathered(found) for name, result in one.items()}
        yield from ((module, every[module.name]) for module in modules)


def each_of(
    items: Sequence[Item],
    work: Callable[[Item], T],
    sizes: Sequence[tuple[int, int]],
    *,
    device: torch.device,
    in_turn: bool,
) -> Iterator[tuple[Item, T]]:
    """What `work` makes of each item, which has a weight of so many bytes, and so long on its short side: on the CPU
    side by side, the smallest first, unless they are to come `in_turn`."""
    threads = torch.get_num_threads()
    alone = in_turn or device.type != "cpu"
    groups: dict[int, list[Item]] = {}
    for item, size in zip(items, sizes, strict=True):
        groups.setdefault(1 if alone else _side_by_side(*size, threads), []).append(item)
    for together, group in sorted(groups.items(), reverse=True):
        if together == 1:
            yield from ((item, work(item)) for item in group)
            continue
        torch.set_num_threads(threads // together)
        pool = Workers(together)
        try:
            yield from zip(group, pool.map(work, group), strict=True)
        finally:
            pool.close(cancel=True)
            torch.set_num_threads(threads)


def _side_by_side(nbytes: int, short: int, threads: int) -> int:
    """How many such weights are worked on at a time, should all of them need a dense decomposition."""
    each = nbytes + min(3 * 8 * short**2, DENSE_BYTES)
    return max(1, min(threads, min(_TOGETHER, threads * _EACH_THREAD) // max(1, each)))
