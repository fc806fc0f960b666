"""Files that are written past the page cache hold what others hold, and tell what goes wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import snapshot
from fixture_data import fixture

from tinylora_tools.errors import OutputError
from tinylora_tools.formats.safetensors_file import build_header
from tinylora_tools.formats.safetensors_writer import SafetensorsWriter
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.merge.writing import target
from tinylora_tools.ops.merge.writing.target import DEPTH, Target
from tinylora_tools.workers import Workers

WINDOW = 1 << 12


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "WINDOW", WINDOW)


@pytest.fixture
def direct(tmp_path: Path) -> bool:
    """Whether the file system writes past its cache."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | getattr(os, "O_DIRECT", 0)))
    except OSError:
        return False
    return hasattr(os, "O_DIRECT")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """What is written by windows: sizes and places."""
    found: list[tuple[int, int]] = []
    real = os.pwrite

    def pwrite(descriptor: int, data: Any, place: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            found.append((len(data), place))
        return real(descriptor, data, place)

    monkeypatch.setattr(target.os, "pwrite", pwrite)
    return found


def written(path: Path, size: int, write: Callable[[Target, bytes, int], None]) -> bytes:
    """A file of `size` bytes and a header, of random bytes that `write` hands over."""
    header, places = build_header([("W", "U8", [size])], None)
    data = np.random.default_rng(0).bytes(size)
    with (
        Workers(DEPTH) as writers,
        SafetensorsWriter(path, header, places) as file,
        Target(path, file, len(header), writers, past_cache=True) as past,
    ):
        write(past, data, len(header))
    assert path.read_bytes() == header + data
    return data


@pytest.mark.parametrize("size", [0, 1, WINDOW - 200, WINDOW, 3 * WINDOW, 9 * WINDOW + 5])
@pytest.mark.parametrize("piece", [7, 1000, WINDOW, 5 * WINDOW + 1])
def test_pieces_in_any_order(tmp_path: Path, size: int, piece: int) -> None:
    def write(past: Target, data: bytes, head: int) -> None:
        starts = [*range(0, size, piece)]
        np.random.default_rng(1).shuffle(starts)
        for start in starts:
            past.write_at(memoryview(data)[start : start + piece], head + start)

    written(tmp_path / "W.safetensors", size, write)


def test_pieces_of_several_threads_and_of_a_file(tmp_path: Path) -> None:
    size, source = 200 * WINDOW + 17, tmp_path / "source"

    def write(past: Target, data: bytes, head: int) -> None:
        source.write_bytes(b"before" + data)
        with source.open("rb") as opened, Workers(4) as threads:

            def one(start: int) -> None:
                if start % 3:
                    past.write_at(memoryview(data)[start : start + 3001], head + start)
                else:
                    count = min(3001, size - start)
                    past.copy_from(opened.fileno(), 6 + start, head + start, count, share=False)

            list(threads.map(one, range(0, size, 3001)))

    written(tmp_path / "W.safetensors", size, write)


def test_whole_windows_are_all_that_goes_past_the_cache(
    tmp_path: Path, calls: list[tuple[int, int]], direct: bool
) -> None:
    if not direct:
        pytest.skip("the file system has no direct writes")
    size = 5 * WINDOW

    def write(past: Target, data: bytes, head: int) -> None:
        past.write_at(memoryview(data), head)
        assert past.unflushed is None

    written(tmp_path / "W.safetensors", size, write)
    assert sorted(calls) == [(WINDOW, place * WINDOW) for place in range(1, 5)]


@pytest.mark.parametrize("way", ["not opened", "not written", "no such flag"])
def test_a_file_system_without_it(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, wrote = os.open, os.pwrite

    def refuse_open(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, *rest)

    def refuse_write(descriptor: int, data: Any, place: int) -> int:
        if len(data) == WINDOW and place % WINDOW == 0 and threading.current_thread() is not threading.main_thread():
            refused.append(place)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return wrote(descriptor, data, place)

    refused: list[int] = []
    if way == "not opened":
        monkeypatch.setattr(target.os, "open", refuse_open)
    elif way == "not written":
        monkeypatch.setattr(target, "write_all", lambda descriptor, data, place: wrote(descriptor, data, place))
        monkeypatch.setattr(target.os, "pwrite", refuse_write)
    else:
        monkeypatch.delattr(target.os, "O_DIRECT")

    def write(past: Target, data: bytes, head: int) -> None:
        past.write_at(memoryview(data), head)
        assert (past.unflushed is None) == (way == "not written")

    written(tmp_path / "W.safetensors", 4 * WINDOW, write)
    assert bool(refused) == (way == "not written")


@pytest.mark.parametrize("name", ["peft021-layers", "peft020-seed-only", "peft020-gpt2", "peft021-embedding"])
def test_a_large_model_s_merge(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, int]], direct: bool
) -> None:
    case = fixture(name)
    merge([case.adapter], tmp_path / "usual", case.base)
    assert not calls
    monkeypatch.setattr(target, "memory_at_hand", lambda: 0)
    merge([case.adapter], tmp_path / "past", case.base)
    assert bool(calls) == direct
    assert snapshot(tmp_path / "past") == snapshot(tmp_path / "usual")


def test_what_fits_well_stays_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a base of the same size it takes half of the memory at most."""
    monkeypatch.setattr(target, "memory_at_hand", lambda: 1000)
    assert [target.only_passes(size) for size in (0, 250, 251)] == [False, False, True]


def test_threads_that_a_second_interrupt_left_writing_hide_nothing(tmp_path: Path) -> None:
    size = 20_000 * WINDOW
    header, places = build_header([("W", "U8", [size])], None)
    begun = threading.Event()

    def write(past: Target) -> None:
        for place in range(1, size // WINDOW):
            with suppress(OSError):  # of a file that is closed by then
                past.write_at(memoryview(bytes(WINDOW)), place * WINDOW)
            begun.set()

    path = tmp_path / "W.safetensors"
    with Workers(DEPTH) as writers, Workers(1) as threads, SafetensorsWriter(path, header, places) as file:
        with pytest.raises(KeyboardInterrupt), Target(path, file, len(header), writers, past_cache=True) as past:
            done = threads.submit(write, past)
            begun.wait()
            raise KeyboardInterrupt
        done.result()


def test_an_error_of_the_disk_is_told_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    case = fixture("peft021-layers")
    monkeypatch.setattr(target, "memory_at_hand", lambda: 0)
    monkeypatch.setattr(target.Target, "_send", full)
    with pytest.raises(OutputError, match="no space left on the device; nothing was kept"):
        merge([case.adapter], tmp_path / "out", case.base)
    assert not list(tmp_path.iterdir())
    if Path("/proc/self/fd").exists():
        assert not [one for one in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(one)]
