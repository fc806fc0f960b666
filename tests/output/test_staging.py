"""Outputs appear whole or not at all, over nothing that anybody would miss."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from damage import snapshot

from tinylora_tools.errors import MismatchError, OutputError
from tinylora_tools.inputs import open_input, watching_inputs
from tinylora_tools.output import staging
from tinylora_tools.output.staging import (
    check_file,
    check_output,
    keep_apart,
    lies_in,
    require_ending,
    resumable_directory,
    resumable_file,
    staged_directory,
    staged_file,
)

FORCE = "Name another output, or replace it with force=True."


class StoppedError(Exception):
    """What a body ends with, for whatever reason."""


def model(directory: Path, text: str = "old") -> Path:
    """A directory that `force` may replace."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(text)
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """As another run holds it."""
    directory.mkdir()
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_directory_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    with staged_directory(out, force=False, inputs=[]) as partial:
        assert not out.exists()
        assert partial.parent == out.parent / ".out.tinylora-partial"
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("new")
    assert snapshot(tmp_path) == {"deep/er/out/sub/a": b"new"}
    assert names(out.parent) == ["out"]


def test_a_body_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    out = model(tmp_path / "out")
    before = snapshot(tmp_path)
    with pytest.raises(StoppedError), staged_directory(out, force=True, inputs=[]) as partial:
        (partial / "config.json").write_text("half")
        raise StoppedError
    assert snapshot(tmp_path) == before
    with pytest.raises(StoppedError), staged_file(out / "config.json", force=True) as half:
        half.write_text("half")
        raise StoppedError
    assert snapshot(tmp_path) == before
    assert names(tmp_path) == ["out"]


def test_force_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    """All of it: what the old one had besides is gone. An empty directory may be filled without."""
    out = model(tmp_path / "out")
    (out / "stale.bin").write_text("old")
    with pytest.raises(OutputError) as caught:
        check_output(out, force=False, inputs=[])
    assert (str(caught.value), caught.value.hint) == (f"{out}: exists already", FORCE)
    with staged_directory(out, force=True, inputs=[]) as partial:
        (partial / "config.json").write_text("new")
    assert snapshot(tmp_path) == {"out/config.json": b"new"}
    notes = tmp_path / "notes"
    notes.mkdir()
    with staged_directory(notes, force=False, inputs=[]) as partial:
        (partial / "thesis.tex").write_text("years of work")
    for force, kept in ((False, ""), (True, ", so force=True doesn't replace it")):
        with pytest.raises(OutputError) as caught, staged_directory(notes, force=force, inputs=[]):
            raise StoppedError
        assert str(caught.value) == f"{notes}: exists already and is no model's directory{kept}"
    assert (notes / "thesis.tex").read_text() == "years of work"


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    half = tmp_path / ".out.tinylora-partial" / "whole.1"
    (half / "sub").mkdir(parents=True)
    (half / "sub" / "half").write_text("half")
    (tmp_path / "elsewhere").write_text("kept")
    (half / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoppedError), staged_directory(out, force=True, inputs=[]) as found:
        assert names(found) == []
        assert not half.exists()
        raise StoppedError
    assert snapshot(tmp_path) == {"elsewhere": b"kept"}
    assert names(tmp_path) == ["elsewhere"]


def test_an_output_whose_name_a_killed_run_took_is_put_back(tmp_path: Path) -> None:
    """As on a file system that can't exchange names: killed between two renames. It counts as the output again."""
    out = tmp_path / "out"
    model(tmp_path / ".out.tinylora-partial" / "replaced")
    with pytest.raises(OutputError, match="out: exists already"), staged_directory(out, force=False, inputs=[]):
        raise StoppedError
    assert snapshot(tmp_path) == {"out/config.json": b"old"}
    with staged_directory(out, force=True, inputs=[]) as whole:
        (whole / "config.json").write_text("new")
    assert snapshot(tmp_path) == {"out/config.json": b"new"}


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """Where we would work, or beside it."""
    out, strange = tmp_path / "out", tmp_path / ".out.tinylora-partial" / "thesis.tex"
    strange.parent.mkdir()
    strange.write_text("years of work")
    (tmp_path / ".out.tinylora-replaced").write_text("whose?")
    before = snapshot(tmp_path)
    for staged in (
        staged_directory(out, force=True, inputs=[]),
        staged_file(out, force=True),
        resumable_file(out, force=False),
    ):
        with pytest.raises(OutputError) as caught, staged:
            raise StoppedError
        assert str(caught.value) == f"{out}: can't be written: {strange} is in the way"
    assert snapshot(tmp_path) == before
    strange.unlink()
    with staged_file(out, force=False) as whole:
        whole.write_text("new")
    assert names(tmp_path) == [".out.tinylora-replaced", "out"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Written by whoever knows nothing of our lock."""
    for name, staged in (
        ("file", staged_file(tmp_path / "file", force=False)),
        ("directory", staged_directory(tmp_path / "directory", force=False, inputs=[])),
    ):
        with pytest.raises(OutputError, match=f"can't be written: {tmp_path / name} is in the way"), staged as whole:
            if not whole.exists():
                whole.write_text("ours")
            (tmp_path / name).write_text("theirs")
        assert (tmp_path / name).read_text() == "theirs"
    assert names(tmp_path) == ["directory", "file"]


def test_an_input_that_is_changed_meanwhile(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("one")
    ways: tuple[Callable[[], Any], ...] = (
        lambda: staged_directory(out, force=False, inputs=[]),
        lambda: staged_file(out, force=False),
        lambda: resumable_file(out, force=False),
    )
    for staged in ways:
        with pytest.raises(MismatchError, match="in: was changed while this run used it"), watching_inputs():
            open_input(source).close()
            with staged() as whole:
                if isinstance(whole, tuple):
                    whole[1].write_text("of one")
                source.write_text(source.read_text() + " more")
        assert names(tmp_path) == ["in"]
    with watching_inputs():
        open_input(source).close()
        with staged_file(out, force=False) as whole:
            whole.write_text("of all")
    assert names(tmp_path) == ["in", "out"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_whose_content_may_not_be_removed(tmp_path: Path) -> None:
    """Of another user: it isn't left behind beside its successor, but refused beforehand."""
    with tempfile.TemporaryDirectory() as place:  # where another user can go
        out = model(Path(place) / "out")
        Path(place).chmod(0o777)
        os.seteuid(65534)
        try:
            with pytest.raises(OutputError) as caught, staged_directory(out, force=True, inputs=[]):
                raise StoppedError
        finally:
            os.seteuid(0)
        assert str(caught.value) == f"{out}: can't be replaced: you may not remove what is in {out}"
        assert names(Path(place)) == ["out"]
        assert snapshot(out) == {"config.json": b"old"}


def test_two_runs_do_not_write_the_same_output(tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "f.safetensors"
    with locked(tmp_path / ".out.tinylora-partial"), locked(tmp_path / ".f.safetensors.tinylora-partial"):
        for staged in (staged_directory(out, force=False, inputs=[]), resumable_file(file, force=False)):
            with pytest.raises(OutputError, match="another run is writing this output"), staged:
                raise StoppedError
        assert names(tmp_path) == [".f.safetensors.tinylora-partial", ".out.tinylora-partial"]
    with staged_directory(out, force=False, inputs=[]) as partial, resumable_file(file, force=False) as (parts, whole):
        (partial / "config.json").write_text("mine")
        whole.write_text("mine")
        for staged in (staged_directory(out, force=True, inputs=[]), resumable_file(file, force=False)):
            with pytest.raises(OutputError, match="another run is writing this output"), staged:
                raise StoppedError
    assert snapshot(tmp_path) == {"out/config.json": b"mine", "f.safetensors": b"mine"}
    assert not parts.exists()


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with staged_file(out, force=False) as partial:
        assert (partial.parent.parent, out.exists()) == (out.parent, False)
        partial.write_text("one")
    assert names(out.parent) == ["out"]
    with pytest.raises(OutputError) as caught, staged_file(out, force=False):
        raise StoppedError
    assert (str(caught.value), caught.value.hint) == (f"{out}: exists already", FORCE)
    with staged_file(out, force=True) as partial:
        partial.write_text("two")
    assert out.read_text() == "two"
    for force in (False, True):
        with pytest.raises(OutputError, match="exists already") as caught:
            check_file(tmp_path, force=force)
        assert caught.value.hint == "Name a file."


def test_long_work_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "factors.safetensors"
    out.write_text("older")
    with pytest.raises(StoppedError), resumable_file(out, force=True) as (parts, whole):
        (parts / "1").write_text("first")
        whole.write_text("half")
        raise StoppedError
    assert out.read_text() == "older"
    with pytest.raises(OutputError, match="exists already"), resumable_file(out, force=False):
        raise StoppedError
    with resumable_file(out, force=True) as (parts, whole):
        assert names(parts) == ["1"]  # without the file that was begun
        whole.write_text((parts / "1").read_text() + " and second")
    assert snapshot(tmp_path) == {"factors.safetensors": b"first and second"}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_request_to_end_that_comes_when_the_output_has_its_name_keeps_no_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    out = tmp_path / "factors.safetensors"

    def interrupted(_: Path) -> None:
        if out.exists():
            raise KeyboardInterrupt

    staged = resumable_file(out, force=False) if kind == "file" else resumable_directory(out, force=False, inputs=[])
    monkeypatch.setattr(staging, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt), staged as (parts, whole):
        (parts / "1").write_text("first")
        (whole if kind == "file" else whole / "inside").write_text("first and second")
    name = "factors.safetensors" + ("" if kind == "file" else "/inside")
    assert snapshot(tmp_path) == {name: b"first and second"}


def test_a_full_disk_says_what_was_kept(tmp_path: Path) -> None:
    def fill(out: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "o"
    for staged, kept in (
        (staged_directory(out, force=False, inputs=[]), "nothing was kept"),
        (staged_file(out, force=False), "nothing was kept"),
        (resumable_file(out, force=False), "what is done so far is kept beside it"),
    ):
        with pytest.raises(OutputError) as caught, staged:
            fill(out)
        assert str(caught.value) == f"{out}: no space left on the device; {kept}"
        assert caught.value.hint == "Free some space, or write elsewhere."


def test_what_the_system_says_of_an_input_is_passed_on(tmp_path: Path) -> None:
    """A file of the output that can't be written is the output's matter."""
    denied = tmp_path / "in" / "a"
    with pytest.raises(PermissionError) as passed, staged_directory(tmp_path / "o", force=False, inputs=[]):
        raise PermissionError(errno.EACCES, "Permission denied", str(denied))
    assert passed.value.filename == str(denied)
    with (
        pytest.raises(OutputError, match=r"o: can't be written \(Permission denied\)"),
        staged_directory(tmp_path / "o", force=False, inputs=[]) as partial,
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(partial / "model.safetensors"))


@pytest.mark.parametrize(
    ("output", "relation"),
    [("in", "is"), ("in/merged", "lies inside"), (".", "holds"), ("link", "is"), ("link/x", "lies inside")],
)
def test_an_output_is_apart_from_its_inputs(output: str, relation: str, tmp_path: Path) -> None:
    """Through links too, and whatever is there or isn't."""
    source = model(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    out = tmp_path / output
    with pytest.raises(OutputError) as caught:
        keep_apart(out, [tmp_path.parent / "elsewhere", source])
    assert str(caught.value) == f"{out}: the output {relation} the input {source}"


def test_an_adapter_s_weights_stand_for_its_directory(tmp_path: Path) -> None:
    """Beside any other file there is room."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    weights = adapter / "adapter_model.safetensors"
    weights.touch()
    keep_apart(adapter / "out", [weights])
    (adapter / "adapter_config.json").touch()
    with pytest.raises(OutputError, match=f"lies inside the input {adapter}"):
        keep_apart(adapter / "out", [weights])
    loose = tmp_path / "packed.safetensors"
    loose.touch()
    keep_apart(tmp_path / "out", [loose])
    with pytest.raises(OutputError, match="the output is the input"):
        keep_apart(loose, [loose])


def test_links_are_not_replaced(tmp_path: Path) -> None:
    kept = model(tmp_path / "kept")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lost").symlink_to(tmp_path / "nothing")
    (tmp_path / ".new.tinylora-partial").symlink_to(kept)
    for name, message in (
        ("link", "is a symbolic link, which isn't replaced"),
        ("loop", "is a symbolic link, which isn't replaced"),
        ("new", f"can't be written: {tmp_path / '.new.tinylora-partial'} is in the way"),
        ("lost", "is a symbolic link, which isn't replaced"),
    ):
        out = tmp_path / name
        for staged in (
            staged_directory(out, force=True, inputs=[]),
            staged_file(out, force=True),
            resumable_file(out, force=False),
        ):
            with pytest.raises(OutputError) as caught, staged:
                raise StoppedError
            assert str(caught.value) == f"{out}: {message}"
    assert (kept / "config.json").read_text() == "old"


def test_endings(tmp_path: Path) -> None:
    require_ending(tmp_path / "a.safetensors")
    for name in ("a", "a.bin", ".safetensors"):
        with pytest.raises(OutputError) as caught:
            require_ending(Path(name))
        assert str(caught.value) == f"{name}: expected the ending .safetensors"
        assert caught.value.hint == f"Name it {name}.safetensors, for example."


@pytest.mark.parametrize("relative", [Path, lambda path: Path(os.path.relpath(path))], ids=["absolute", "relative"])
def test_a_link_lies_where_its_name_is(relative: Callable[[Path], Path], tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()
    (outside / "target").touch()
    (inside / "link").symlink_to(outside / "target")
    assert lies_in(relative(inside / "link"), inside)
    assert not lies_in(relative(outside / "target"), inside)
    assert lies_in(relative(inside / "new"), relative(inside))
