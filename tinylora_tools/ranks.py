"""Several processes, on one machine or more, that divide a command's work: started by torchrun, joined by
torch.distributed.

Each runs the whole command on the same files, which they all see. What takes long is divided: each does its share, and
what came of it is gathered by all. What is written is written by the first of them, but for parts that stand by
themselves. One that fails ends them all.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

from .errors import TinyLoraError

T = TypeVar("T")

#: Set by torchrun for what it starts; torch reads the rest of its environment.
_STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"

#: How long one waits for another: as long as the longest share may take. One that ended is noticed at once.
_PATIENCE = timedelta(days=2)

_FAILED = "tinylora/failed"


class Ranks:
    """One of several processes, the number `number` of `count`; `beside` of them are on this machine."""

    number, count, beside = 0, 1, 1

    def share(self, sizes: Sequence[int]) -> set[int]:
        """The places of what is this one's to do, of works of these sizes: the largest first, to whoever has least."""
        loads, mine = [0] * self.count, set()
        for place in sorted(range(len(sizes)), key=lambda one: -sizes[one]):
            least = loads.index(min(loads))
            loads[least] += sizes[place] or 1
            if least == self.number:
                mine.add(place)
        return mine

    def gathered(self, value: T) -> list[T]:
        """What each has, in their order."""
        return [value]

    def wait(self) -> None:
        """Go on when all have come here."""


_current: ContextVar[Ranks | None] = ContextVar("_current", default=None)
_ALONE = Ranks()


def ranks() -> Ranks:
    """Those that work together; one alone where `joined` isn't."""
    return _current.get() or _ALONE


def started_by_torchrun() -> bool:
    """Whether there are others to join."""
    return _STARTED_BY_TORCHRUN in os.environ


class OtherRankFailedError(Exception):
    """Another of several processes has failed, and says so."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """Work with the processes that torchrun started beside this one; alone, where it didn't.

    Raises
    ------
    OtherRankFailedError
        If another one failed first.
    TinyLoraError
        If another one ended without a word; and whatever is raised inside, by the first that fails.
    """
    if not started_by_torchrun():
        yield _ALONE
        return
    import torch.distributed as dist

    own = not dist.is_initialized()
    if own:
        _meet(dist)
    token = None
    try:
        together = _Joined(dist)
        token = _current.set(together)
        yield together
        together.wait()
    except BaseException as error:
        if not _fails_first(dist):
            raise OtherRankFailedError from None
        if isinstance(error, _GoneError):
            raise TinyLoraError(
                "another of the processes that torchrun started ended in the middle",
                hint="Run the same again: what is done goes on from there.",
            ) from None
        raise
    finally:
        if token is not None:
            _current.reset(token)
        if own:
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _meet(dist: Any) -> None:
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise TinyLoraError(
            f"the processes that torchrun started don't reach each other: {reason}",
            hint="Check the address that torchrun was given; GLOO_SOCKET_IFNAME names the network interface to use.",
        ) from None


def _fails_first(dist: Any) -> bool:
    """Whether no other process has failed before; said to the others by this."""
    try:
        return bool(dist.distributed_c10d._get_default_store().add(_FAILED, 1) == 1)
    except (RuntimeError, ValueError):  # the store went with the process that held it
        return True


class _GoneError(Exception):
    """The connection to another process broke."""


class _Joined(Ranks):
    def __init__(self, dist: Any) -> None:
        self._dist = dist
        self.number, self.count = dist.get_rank(), dist.get_world_size()
        hosts = self.gathered(socket.gethostname())
        self.beside = hosts.count(hosts[self.number])

    def gathered(self, value: T) -> list[T]:
        data = pickle.dumps(value)
        found: list[Any] = [None] * self.count
        try:
            self._dist.all_gather_object(found, data)
        except RuntimeError as error:
            raise _GoneError from error
        return [pickle.loads(one) for one in found]  # noqa: S301 - our own processes'

    def wait(self) -> None:
        try:
            self._dist.barrier()
        except RuntimeError as error:
            raise _GoneError from error
