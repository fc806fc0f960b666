"""One run at a time works on an output, whatever the runs before it left, and whenever it comes."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from damage import snapshot

from tinylora_tools.errors import OutputError
from tinylora_tools.output import workshop as module
from tinylora_tools.output.workshop import workshop, workshop_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_lock_is_of_the_file_that_is_there(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run gets the lock of a file that the run before it has just removed, and a third may hold the new one."""
    real, runs = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not runs:  # between this run's open and its lock, another one leaves
            runs.append("another")
            shutil.rmtree(workshop_of(out))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with workshop(out):
        here = (workshop_of(out) / "lock").stat().st_ino
        second = os.open(workshop_of(out) / "lock", os.O_RDWR)
        try:
            assert os.fstat(second).st_ino == here
            with pytest.raises(BlockingIOError):
                real(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(second)
    assert not workshop_of(out).exists()


def test_a_third_run_that_came_in_between_has_the_lock(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, thirds = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not thirds:
            shutil.rmtree(workshop_of(out))
            workshop_of(out).mkdir()
            thirds.append(os.open(workshop_of(out) / "lock", os.O_RDWR | os.O_CREAT))
            real(thirds[0], fcntl.LOCK_EX)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match="another run is writing this output"), workshop(out):
        raise AssertionError
    os.close(thirds[0])


def test_a_run_that_leaves_takes_nothing_from_one_that_came(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the removal of the lock and that of the directory."""
    real, came = Path.rmdir, []

    def rmdir(self: Path) -> None:
        if self == workshop_of(out) and not came:
            came.append(module._held(workshop_of(out), out))
        real(self)

    with workshop(out) as shop:
        shop.new().write_text("half")
        monkeypatch.setattr(Path, "rmdir", rmdir)
    assert os.fstat(came[0]).st_ino == (workshop_of(out) / "lock").stat().st_ino
    os.close(came[0])


def test_names_are_a_run_s_own(out: Path) -> None:
    with workshop(out) as shop:
        assert len({shop.new() for _ in range(100)}) == 100


@pytest.mark.parametrize("can", [True, False], ids=["exchanged", "one after the other"])
def test_something_whole_has_the_name_at_every_moment(out: Path, can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or is put back by the next run, where names can't be exchanged."""
    out.mkdir()
    (out / "a").write_text("old")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == out:
            raise KeyboardInterrupt  # as a kill at this point: the run doesn't get to put anything in order
        return real(self, target)

    if not can:
        monkeypatch.setattr(module, "exchange", lambda *_: False)
        monkeypatch.setattr(module.Workshop, "leave", lambda _: None)
        monkeypatch.setattr(Path, "rename", rename)
    with workshop(out) as shop:
        whole = shop.new()
        whole.mkdir()
        (whole / "a").write_text("new")
        if can:
            shop.give_name(whole, force=True)
            assert (out / "a").read_text() == "new"
            shop.remove_replaced()
        else:
            with pytest.raises(KeyboardInterrupt):
                shop.give_name(whole, force=True)
            assert not out.exists()
    monkeypatch.undo()
    with workshop(out):
        assert snapshot(out) == {"a": b"new" if can else b"old"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_was_replaced_and_cannot_be_removed_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    (out / "a").write_text("old")

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with pytest.raises(OutputError, match=r"is in place, but what it replaced can't be removed \(Operation"):  # noqa: SIM117
        with workshop(out) as shop:
            whole = shop.new()
            whole.mkdir()
            shop.give_name(whole, force=True)
            monkeypatch.setattr(module, "_remove", refuse)
            shop.remove_replaced()


def test_another_user_s_directory_in_a_place_for_all_is_no_workshop(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in /tmp, where another user may have made it, to exchange what is written."""
    workshop_of(out).mkdir()
    out.parent.chmod(0o1777)
    with workshop(out):
        pass
    workshop_of(out).mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: out.parent.stat().st_uid + 1)
    with pytest.raises(FileExistsError), workshop(out):
        raise AssertionError


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["_remove", "iterdir", "rmdir", "unlink"])
def test_a_request_to_end_while_it_is_cleared_leaves_nothing(
    call: str, when: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around each thing that leaving does."""
    owner = module if call == "_remove" else Path
    real, asked = getattr(owner, call), [0]

    def interrupted(path: Path, **given: bool) -> object:
        if not asked[0] and when == "before":
            asked[0] += 1
            raise KeyboardInterrupt
        result = real(path, **given)
        if not asked[0]:
            asked[0] += 1
            raise KeyboardInterrupt
        return result

    def work() -> None:
        with workshop(out) as shop:
            shop.new().write_text("half")
            monkeypatch.setattr(owner, call, interrupted)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert asked == [1]
    monkeypatch.undo()
    assert list(out.parent.iterdir()) == []


def test_who_came_after_the_lock_was_given_back_keeps_all(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes as this run's lock is gone, and another run has begun."""
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        real(path, missing_ok)
        (workshop_of(out) / "lock").write_text("another's")
        (workshop_of(out) / "whole.other").write_text("another's")
        raise KeyboardInterrupt

    def work() -> None:
        with workshop(out):
            monkeypatch.setattr(Path, "unlink", unlink)

    with pytest.raises(KeyboardInterrupt):
        work()
    monkeypatch.undo()
    assert snapshot(workshop_of(out)) == {"lock": b"another's", "whole.other": b"another's"}
