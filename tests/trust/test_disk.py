"""A disk that fails, or is full, at any call: never success with other bytes, never half an output under its name."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from trust.runs import COMMANDS, FAIL, Ended, Server, Ways, content, names, quick

#: What is made to fail, each by itself; the kernel's own copies fall back on reads and writes for some errors.
CALLS = (
    "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat2", "posix_fallocate64", "ftruncate64",
    "copy_file_range", "mkdir", "open64", "unlinkat",
)  # fmt: skip
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


def check(ended: Ended, ways: Ways, command: str, old: object, whole: object) -> None:
    output = ways.output(command)
    found = content(output)
    assert ended.code in (0, 1), ended
    assert "Traceback" not in ended.err, ended
    assert found in (old, whole), ended
    if ended.code == 0:
        assert found == whole, ended
    else:
        assert "error: " in ended.err
        assert "next: " in ended.err


def fail_at(
    server: Server,
    ways: Ways,
    command: str,
    whole: object,
    call: str,
    errors: Sequence[int],
    *,
    most: int,
    force: bool,
) -> None:
    """Let a call fail each time that it is made (or so often at most, evenly), with one error after the other."""
    outputs = ways.places["OUT"].parent

    def prepare() -> tuple[list[str], object]:
        ways.clear()
        if not force:
            return ways.arguments(command), None
        assert server.run(ways.arguments(command)).code == 0
        return [*ways.arguments(command), "--force"], content(ways.output(command))

    arguments, _ = prepare()
    count = server.run(arguments, under=outputs, calls=[call]).count
    points = sorted({1 + round(n * (count - 1) / max(1, min(most, count) - 1)) for n in range(min(most, count))})
    for at, error in zip(points, itertools.cycle(errors), strict=False):
        arguments, old = prepare()
        check(
            server.run(arguments, under=outputs, calls=[call], at=at, action=FAIL, error=error),
            ways,
            command,
            old,
            whole,
        )
        ended = server.run([*ways.arguments(command), "--force"])
        assert (ended.code, content(ways.output(command)) == whole) == (0, True), (call, at, ended)
        assert names(outputs) == [ways.output(command).name], (call, at)


@pytest.mark.parametrize("command", quick(COMMANDS))
def test_calls_that_fail_somewhere(command: str, server: Server, ways: Ways, undisturbed: dict[str, object]) -> None:
    number = list(COMMANDS).index(command)
    for n, call in enumerate(("pwrite64", "fsync", "renameat2", "posix_fallocate64")):
        fail_at(
            server, ways, command, undisturbed[command], call, ERRORS[(number + n) % 3 :], most=1, force=bool(n % 2)
        )


@pytest.mark.parametrize(
    "command, call, at", [("merge", "fdatasync", 1), *(("merge of shards", "pwrite64", at) for at in (2, 3, 9))]
)
def test_what_the_disk_says_in_the_background_is_heard(
    command: str, call: str, at: int, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    """A merge sends what it has written to the disk while it goes on, or writes it there itself, in threads of its own.
    Linux tells of an error once: the fsync at the end may well succeed, over zeros."""
    ways.clear()
    how = {"under": ways.places["OUT"].parent, "calls": [call], "action": FAIL, "at": at, "error": errno.ENOSPC}
    ended = server.run(ways.arguments(command), **how)
    assert ended.count >= at
    assert (ended.code, "no space left on the device" in ended.err) == (1, True), ended
    check(ended, ways, command, None, undisturbed[command])


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_calls_that_fail_anywhere(
    command: str, call: str, force: bool, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    fail_at(server, ways, command, undisturbed[command], call, ERRORS, most=sys.maxsize, force=force)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where this may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems may not be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("command", quick(COMMANDS))
def test_a_disk_of_any_size(
    command: str, server: Server, ways: Ways, undisturbed: dict[str, object], small_disk: Path
) -> None:
    """From full to free: the smallest on which the command succeeds has the whole output."""
    there = Ways(ways.top, {**ways.places, "OUT": small_disk / "out"})
    page, codes = os.sysconf("SC_PAGE_SIZE"), []
    for left in (0, 1, 4, 9, 15):
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - left * page)))
        ended = server.run(there.arguments(command))
        codes.append(ended.code)
        check(ended, there, command, None, undisturbed[command])
        for path in small_disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert codes[0] == 1
