"""Two names that change places at once, and a name that has to be free."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinylora_tools.output.rename import exchange, rename_to_free


class Library:
    """A C library whose renameat2 fails, or that has none."""

    def __init__(self, code: int | None) -> None:
        if code is not None:
            self.renameat2 = self._fail(code)

    @staticmethod
    def _fail(code: int) -> Callable[..., int]:
        def renameat2(*_: Any) -> int:
            ctypes.set_errno(code)
            return -1

        return renameat2


@pytest.fixture(params=[None, errno.ENOSYS, errno.EINVAL], ids=["no function", "no call", "no such flag"])
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where names can't be exchanged."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(request.param))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    file, directory = tmp_path / "a file", tmp_path / "a directory"
    file.write_text("text")
    (directory / "inside").mkdir(parents=True)
    return file, directory


def can_exchange(tmp_path: Path) -> bool:
    """Whether this system and this file system can."""
    one, other = tmp_path / "1", tmp_path / "2"
    one.touch()
    other.touch()
    try:
        return exchange(one, other)
    finally:
        one.unlink()
        other.unlink()


def test_names_change_places(two: tuple[Path, Path], tmp_path: Path) -> None:
    if not can_exchange(tmp_path):
        pytest.skip("this file system can't exchange names")
    assert exchange(*two)
    assert (two[0] / "inside").is_dir()
    assert two[1].read_text() == "text"


def test_names_that_cannot_change_places(two: tuple[Path, Path], tmp_path: Path) -> None:
    if not can_exchange(tmp_path):
        pytest.skip("this file system can't exchange names")
    with pytest.raises(FileNotFoundError) as caught:
        exchange(two[0], tmp_path / "nothing")
    assert (caught.value.filename, caught.value.filename2) == (str(two[0]), str(tmp_path / "nothing"))
    assert two[0].read_text() == "text"


@pytest.mark.usefixtures("elsewhere")
def test_where_names_cannot_be_exchanged_nothing_is_done(two: tuple[Path, Path]) -> None:
    assert not exchange(*two)
    assert two[0].read_text() == "text"
    free = two[0].with_name("free")
    rename_to_free(two[0], free)
    assert free.read_text() == "text"
    with pytest.raises(FileExistsError):
        rename_to_free(free, two[1])
    assert free.read_text() == "text"


def test_a_name_has_to_be_free(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for taken in (two[1], tmp_path / "link"):
        with pytest.raises(FileExistsError) as caught:
            rename_to_free(two[0], taken)
        assert caught.value.filename == str(taken)
    rename_to_free(two[0], tmp_path / "free")
    assert sorted(os.listdir(tmp_path)) == ["a directory", "free", "link"]  # noqa: PTH208
