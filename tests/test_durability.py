"""What has an output's name has its bytes on the disk: files are flushed, their directories, and only then a rename."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fixture_data import fixture

from tinylora_tools.output import rename

Run = Callable[..., Any]


class Event(NamedTuple):
    """A flush of an inode, with its size and time of change then, or a renaming."""

    what: str
    inode: int
    size: int
    changed: int


_events: list[Event] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event == "os.rename" and Path(arguments[0]).exists():
        _events.append(Event("rename", Path(arguments[0]).stat().st_ino, 0, 0))


sys.addaudithook(_hook)  # which stays: it records only while a test asks


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, tinylora: Run) -> Callable[..., list[Event]]:
    """Run a command, and say in which order it flushed and renamed."""
    real, renaming = os.fsync, rename._renameat2

    def fsync(descriptor: int) -> None:
        real(descriptor)
        state = os.fstat(descriptor)
        if _events is not None:
            _events.append(Event("fsync", state.st_ino, state.st_size, state.st_mtime_ns))

    def renameat2(source: Path, target: Path, flags: int) -> bool:
        if _events is not None:
            _events.append(Event("rename", source.stat().st_ino, 0, 0))
        return renaming(source, target, flags)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(rename, "_renameat2", renameat2)  # which the audit hook doesn't see

    def run(*arguments: object) -> list[Event]:
        global _events
        _events = []
        try:
            result = tinylora(*arguments)
            assert result.code == 0, result
            return _events
        finally:
            _events = None

    return run


CASE, SHARDED = fixture("peft021-layers"), fixture("peft020-seed-only")
COMMANDS: dict[str, tuple[object, ...]] = {
    "merge": ("merge", CASE.adapter, "--base", CASE.base, "-o", "OUT"),
    "merge of shards": ("merge", SHARDED.adapter, "--base", SHARDED.base, "-o", "OUT"),
    "init": ("init", CASE.base, "-o", "OUT"),
    "factor": ("factor", CASE.base, "-o", "OUT.safetensors", "--target-modules", "q_proj"),
    "convert lora": ("convert", "lora", CASE.adapter, "--base", CASE.base, "-o", "OUT"),
    "convert peft": ("convert", "peft", CASE.adapter, "-o", "OUT"),
    "convert packed": ("convert", "packed", CASE.adapter, "--base", CASE.base, "-o", "OUT.safetensors"),
    "project": ("project", SHARDED.adapter, "-o", "OUT", "--base", SHARDED.base),
    "project of a seed": ("project", "--seed", 42, "-u", 3, "-r", 2, "-o", "OUT.safetensors"),
    "verify-seed": ("verify-seed", CASE.adapter, "--record", "OUT.json"),
}  # fmt: skip


@pytest.mark.parametrize("force", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("command", COMMANDS)
def test_everything_is_flushed_before_it_gets_its_name(
    command: str, force: bool, traced: Callable[..., list[Event]], tinylora: Run, tmp_path: Path
) -> None:
    arguments = [str(part).replace("OUT", str(tmp_path / "out")) for part in COMMANDS[command]]
    if force:
        assert tinylora(*arguments).code == 0
        arguments.append("--force")
    events = traced(*arguments)
    output = next(tmp_path.glob("out*"))
    renamed = max(i for i, e in enumerate(events) if e.what == "rename" and e.inode == output.stat().st_ino)
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    directories = [] if output.is_file() else [output, *(path for path in output.rglob("*") if path.is_dir())]
    last_flush = {event.inode: i for i, event in enumerate(events[:renamed]) if event.what == "fsync"}
    for path in files:
        state, flushed = path.stat(), events[last_flush[path.stat().st_ino]]
        assert (flushed.size, flushed.changed) == (state.st_size, state.st_mtime_ns), path  # nothing came after it
    for path in directories:
        inside = [last_flush[one.stat().st_ino] for one in path.iterdir()]
        assert last_flush[path.stat().st_ino] > max(inside), path
    parent = output.parent.stat().st_ino
    assert any(event.what == "fsync" and event.inode == parent for event in events[renamed + 1 :])


def test_directories_that_are_made_for_an_output_are_flushed_too(
    traced: Callable[..., list[Event]], tmp_path: Path
) -> None:
    """Each in the one that has its name: else all of it may be gone with the power."""
    out = tmp_path / "deep" / "er" / "out"
    events = traced("project", "--seed", 42, "-u", 3, "-r", 2, "-o", out.with_suffix(".safetensors"))
    flushed = {event.inode for event in events if event.what == "fsync"}
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "deep", tmp_path / "deep" / "er")} <= flushed
