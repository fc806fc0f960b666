"""Work on several threads: its results, its errors, its end, and that an interrupt finds no lock that it could keep."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fixture_data import fixture

import tinylora_tools as tl
from tinylora_tools.workers import Workers, left_to_itself, some_are_left

CASE = fixture("peft021-layers")


def test_results_come_in_order() -> None:
    with Workers(3) as pool:
        assert list(pool.map(pow, range(100), [2] * 100)) == [n * n for n in range(100)]
        task = pool.submit(divmod, 7, 3)
        assert (task.result(), task.result(), task.done()) == ((2, 1), (2, 1), True)


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    with Workers(2) as pool:
        task = pool.submit(int, "x")
        for _ in range(2):
            with pytest.raises(ValueError, match="invalid literal"):
                task.result()


def test_several_work_at_once_and_none_more_than_asked_for() -> None:
    barrier, most, running = threading.Barrier(3), [0], [0]
    lock = threading.Lock()

    def work(_: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        barrier.wait(10)
        with lock:
            running[0] -= 1
        return _thread.get_ident()

    with Workers(3) as pool:
        assert _thread.get_ident() not in set(pool.map(work, range(9)))
    assert most == [3]


def test_the_end_waits_for_all_and_after_an_error_for_what_is_begun() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.02)
        done.append(number)

    with Workers(1) as pool:
        for number in range(5):
            pool.submit(work, number)
    assert done == [0, 1, 2, 3, 4]
    done.clear()
    with pytest.raises(KeyError), Workers(1) as pool:
        for number in range(50):
            pool.submit(work, number)
        raise KeyError
    assert len(done) < 50
    pool.close(cancel=True)


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were begun end."""
    real, begun, ended = _thread.start_new_thread, [0], [0]

    def start(work: Callable[..., None], arguments: tuple[Any, ...]) -> int:
        if begun[0] == 2:
            raise RuntimeError("can't start new thread")
        begun[0] += 1

        def run() -> None:
            ended[0] += 1
            work(*arguments)

        return real(run, ())

    monkeypatch.setattr(_thread, "start_new_thread", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Workers(3)
    assert (begun, ended) == ([2], [2])


def merge(out: Path) -> None:
    tl.merge(CASE.adapter, out, CASE.base, threads=2, manifest=True)


def verify(out: Path) -> None:
    merge(out)
    tl.verify_output(out, CASE.adapter, CASE.base, threads=2)


def pack(out: Path) -> None:
    tl.pack(CASE.adapter, out.with_suffix(".safetensors"), base=CASE.base, threads=2)


def factor(out: Path) -> None:
    config = tl.TinyLoraConfig(r=1, target_modules=("q_proj",))
    tl.factor(CASE.base, out.with_suffix(".safetensors"), config, threads=2)


@pytest.mark.parametrize("run", [merge, verify, pack, factor], ids=lambda run: run.__name__)
def test_the_main_thread_takes_no_lock_that_an_interrupt_would_leave_taken(
    run: Callable[[Path], None], tmp_path: Path
) -> None:
    """`threading.Condition`: an exception that is raised as `__enter__` returns leaves its lock held. A run of each
    before, for what is imported then."""
    seen: list[str] = []

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is threading.Condition.__enter__.__code__:
            seen.append(f"{frame.f_back and frame.f_back.f_code}")

    run(tmp_path / "first")
    sys.setprofile(watch)
    try:
        run(tmp_path / "out")
        assert seen == []
        with threading.Condition():
            assert len(seen) == 1
    finally:
        sys.setprofile(None)


def test_threads_whose_end_a_second_interrupt_did_not_wait_for_are_left() -> None:
    """The process would end in the middle of what they do."""
    assert not some_are_left()
    going_on, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        going_on.wait()

    pool = Workers(2)
    pool.submit(work)
    begun.wait()
    assert some_are_left()
    going_on.set()
    pool.close(cancel=True)
    assert not some_are_left()


def test_what_cannot_be_told_to_stop_is_left_by_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert left_to_itself(lambda: 3) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        left_to_itself(lambda: int("x"))
    assert not some_are_left()
    begun, goes_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        goes_on.wait(30)

    def interrupt() -> None:
        begun.wait(30)
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            left_to_itself(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert some_are_left()
    goes_on.set()
    while some_are_left():
        time.sleep(0.01)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("tinylora_tools.workers._thread.start_new_thread", refuse)
    assert left_to_itself(lambda: 4) == 4
