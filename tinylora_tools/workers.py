"""Threads that work for the one that waits for them, and that no interrupt leaves waiting for each other.

Python raises KeyboardInterrupt, as whatever a signal's handler raises, between any two steps of the main thread. One
such gap lies in `threading.Condition`, between taking its lock and the `with` that gives it back: the lock is held for
good then, and a process whose threads need it hangs where it waits for them. `concurrent.futures` and
`threading.Thread.start` are built on it. Here the main thread waits in functions of the interpreter alone, for locks
and in simple queues, which are done whole or not at all.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Self, TypeVar
from weakref import WeakSet

from .ranks import ranks

T = TypeVar("T")
_Answer = tuple[Any, BaseException | None]


def cores() -> int:
    """How many threads, where nobody says: one for each core that this process may use, at most 8; of several `ranks`
    on this machine each takes its part."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    return max(1, min(8, available // ranks().beside))


class Task(Generic[T]):
    """A piece of work that was handed over, and what becomes of it."""

    def __init__(self) -> None:
        self._answer: SimpleQueue[_Answer] = SimpleQueue()

    def run(self, work: Callable[[], T]) -> None:
        """Do the work, here and now."""
        try:
            self._answer.put((work(), None))
        except BaseException as error:
            self._answer.put((None, error))

    def done(self) -> bool:
        """Whether `result` answers at once."""
        return not self._answer.empty()

    def result(self) -> T:
        """What the work returned, or raised; waits for it."""
        while True:
            with suppress(Empty):  # looked up from now and then: a signal that another thread took waits for that
                answer = self._answer.get(timeout=0.2)
                break
        self._answer.put(answer)  # for who asks again
        if answer[1] is not None:
            raise answer[1]
        found: T = answer[0]
        return found


#: What threads hold while they run.
_started: WeakSet[_thread.LockType] = WeakSet()


class Workers:
    """So many threads; a context, which waits for them. After an error, what isn't begun by then is left undone.

    Raises
    ------
    RuntimeError
        If the system allows no more threads.
    """

    def __init__(self, threads: int) -> None:
        self._todo: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._running: list[_thread.LockType] = []
        self._cancelled = False
        try:
            for _ in range(threads):
                running = _thread.allocate_lock()
                running.acquire()
                _started.add(running)
                _thread.start_new_thread(self._work, (running,))
                self._running.append(running)
        except RuntimeError:
            self.close(cancel=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close(cancel=error is not None)

    def submit(self, work: Callable[..., T], *arguments: Any) -> Task[T]:
        """Have a function called with these arguments."""
        task: Task[T] = Task()
        self._todo.put(partial(task.run, partial(work, *arguments)))
        return task

    def map(self, work: Callable[..., T], *each: Iterable[Any]) -> Iterator[T]:
        """Results of a function for the elements of `each`, in their order; all are handed over at once."""
        tasks = [self.submit(work, *arguments) for arguments in zip(*each, strict=True)]
        tasks.reverse()  # from which the next is popped: results are let go
        while tasks:
            yield tasks.pop().result()

    def close(self, *, cancel: bool) -> None:
        """End the threads, when all is done, or when what is begun is; whoever waits for a task that isn't, waits for
        ever. Once is enough, and more do no harm."""
        self._cancelled = self._cancelled or cancel
        for _ in self._running:
            self._todo.put(None)
        while self._running:
            self._running[-1].acquire()
            _started.discard(self._running.pop())

    def _work(self, running: _thread.LockType) -> None:
        try:
            while (work := self._todo.get()) is not None:
                if not self._cancelled:
                    work()
                del work
        finally:
            running.release()


_left: list[Task[Any]] = []


def left_to_itself(work: Callable[[], T]) -> T:
    """What a function returns that can't be told to stop, as of a library with threads of its own, which waits for them
    however long they take: an interrupt doesn't wait, and leaves it running."""
    task: Task[T] = Task()
    try:
        _thread.start_new_thread(task.run, (work,))
    except RuntimeError:  # the system allows no more of them
        return work()
    try:
        return task.result()
    finally:
        if not task.done():
            _left.append(task)


def some_are_left() -> bool:
    """Whether what an interrupt left runs still, as threads whose end a second one didn't wait for. The end of the
    process would wait for some, and is an abort where libraries in C++ are in the middle of something in others."""
    return not all(task.done() for task in _left) or any(running.locked() for running in _started)
