"""Ranges of bytes between files: the very bytes, by whichever way the system has."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylora_tools.errors import OutputError
from tinylora_tools.output import file_copy
from tinylora_tools.output.file_copy import copy_range, read_into

DATA = bytes(range(256)) * 40


def unable(*_: Any, **__: Any) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def nothing(*_: Any, **__: Any) -> int:
    """As some file systems answer where they can't."""
    return 0


def at_most(count: int, real: Callable[..., int], place: int) -> Callable[..., int]:
    """As a kernel that copies less than it is asked for."""

    def short(*arguments: Any) -> int:
        changed = list(arguments)
        changed[place] = min(count, changed[place])
        return real(*changed)

    return short


#: What each of the two ways of the kernel does.
WAYS: dict[str, dict[str, Any]] = {"as the system does": {}, "elsewhere": {}}
if sys.platform == "linux":
    WAYS |= {
        "sendfile": {"copy_file_range": unable},
        "read and write": {"copy_file_range": nothing, "sendfile": unable},
        "in pieces": {"copy_file_range": at_most(100, os.copy_file_range, 2)},
        "sendfile in pieces": {"copy_file_range": unable, "sendfile": at_most(100, os.sendfile, 3)},
    }


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in WAYS[request.param].items():
        monkeypatch.setattr(os, name, function)
    if request.param == "elsewhere":
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(file_copy, "_BUFFER_BYTES", 300)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    (tmp_path / "source").write_bytes(DATA)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target, tmp_path / "target"
    os.close(source)
    os.close(target)


@pytest.mark.usefixtures("way")
@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.integers(0, 5000))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_range_and_nothing_else_is_copied(files: tuple[int, int, Path], one: int, other: int, at: int) -> None:
    source, target, path = files
    first, last = min(one, other), max(one, other)
    before = b"\xff" * 16_000
    path.write_bytes(before)
    copy_range(source, first, target, at, last - first)
    found = path.read_bytes()
    expected = before[:at] + DATA[first:last] + before[at + last - first :]
    assert found == expected


@pytest.mark.skipif(sys.platform != "linux", reason="blocks are shared on Linux")
def test_blocks_that_lie_alike_are_shared(files: tuple[int, int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands around them is copied; where they lie otherwise, or the system can't, all is."""
    source, target, path = files
    asked: list[tuple[int, ...]] = []

    def clone(_: int, request: int, said: bytes) -> None:
        descriptor, start, size, to = struct.unpack("=qQQQ", said)
        assert (request, descriptor) == (0x4020940D, source)
        asked.append((start, size, to))
        os.pwrite(target, os.pread(source, size, start), to)

    monkeypatch.setattr("fcntl.ioctl", clone)
    copy_range(source, 100, target, 4196, 9000, share=True)
    assert asked == [(4096, 4096, 8192)]
    assert path.read_bytes()[4196:] == DATA[100:9100]
    copy_range(source, 100, target, 4195, 9000, share=True)
    copy_range(source, 4000, target, 4000, 4000, share=True)
    assert len(asked) == 1
    monkeypatch.setattr("fcntl.ioctl", unable)
    copy_range(source, 100, target, 4196, 9000)
    assert path.read_bytes()[4196:13196] == DATA[100:9100]
    with pytest.raises(OutputError, match="can't have the base and the merged model share"):
        copy_range(source, 100, target, 4196, 9000, share=True)


@pytest.mark.usefixtures("way")
def test_a_source_that_ends_early_is_an_error(files: tuple[int, int, Path]) -> None:
    source, target, _ = files
    with pytest.raises(OSError, match="the source ended early; was it changed during the merge") as caught:
        copy_range(source, 10, target, 0, len(DATA))
    assert caught.value.errno == errno.EIO


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's ways are Linux's")
@pytest.mark.parametrize("name", ["copy_file_range", "sendfile"])
def test_a_full_disk_is_not_mistaken_for_a_way_that_is_missing(
    name: str, files: tuple[int, int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", unable)
    monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match="No space left") as caught:
        copy_range(files[0], 0, files[1], 0, 100)
    assert caught.value.errno == errno.ENOSPC


def test_a_buffer_is_filled_however_little_comes_at_a_time(
    files: tuple[int, int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its elements are."""
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:7]], at))
    buffer = bytearray(1000)
    read_into(files[0], memoryview(buffer).cast("I"), 3)
    assert buffer == DATA[3:1003]
    with pytest.raises(OSError, match="the source ended early"):
        read_into(files[0], memoryview(buffer), len(DATA) - 999)
