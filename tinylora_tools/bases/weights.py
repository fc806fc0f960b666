"""The weights of targeted modules, as torch takes them: read one by one, worked on side by side where they are
small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import at_least
from ..core.torch_arrays import tensor_of
from ..errors import FormatError, TinyLoraError
from ..progress import Progress
from ..ranks import ranks
from ..workers import Workers
from .modules import Module

T = TypeVar("T")
Item = TypeVar("Item")

#: Bytes of weights that are worked on at the same time, several small ones or one large one; and of what their dense
#: decompositions, should they all need one, take.
_TOGETHER, _DENSE_TOGETHER = 64_000_000, 300_000_000


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

    Small weights, whose steps are too short to share between cores, are worked on side by side with one thread each;
    large ones, and all on a GPU, one after the other with all threads. What a weight gives doesn't depend on its
    company. Without `side_by_side` they come one after the other, in their order. Of several `ranks` each works on its
    share, and all get what came of all.

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
    """What `work` makes of each item, which has a weight of so many bytes, and so long on its short side: small ones
    side by side and first, unless they are to come `in_turn`."""
    threads = torch.get_num_threads()
    together = 1 if in_turn or device.type != "cpu" else threads
    small = [_is_small(*size, together) for size in sizes]
    if together > 1 and any(small):
        torch.set_num_threads(1)
        pool = Workers(together)
        first = [item for item, is_small in zip(items, small, strict=True) if is_small]
        try:
            yield from zip(first, pool.map(work, first), strict=True)
        finally:
            pool.close(cancel=True)
            torch.set_num_threads(threads)
    for item, is_small in zip(items, small, strict=True):
        if together == 1 or not is_small:
            yield item, work(item)


def _is_small(nbytes: int, short: int, together: int) -> bool:
    return nbytes * together <= _TOGETHER and 3 * 8 * short**2 * together <= _DENSE_TOGETHER
