"""Files that are read: only files, and as they were when they were opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinylora_tools.errors import FormatError, MismatchError
from tinylora_tools.inputs import open_input, read_input, require_unchanged, watches_inputs, watching_inputs

NOWHERE = Path("/nowhere")


def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(FormatError, match="is no file, but a pipe or a device"):
            open_input(path)
    with pytest.raises(IsADirectoryError):
        open_input(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_input(tmp_path / "nothing")


@pytest.mark.parametrize(("name", "command"), [("adapter_config.json", "inspect"), ("config.json", "count")])
def test_a_configuration_that_is_no_file_is_not_taken_for_none(
    name: str, command: str, copied: Callable[[str], tuple[Path, Path]], tinylora: Callable[..., Any]
) -> None:
    """A pipe, or a link that leads nowhere, as where a Hub's blob is gone."""
    adapter, base = copied("peft020-tiny")
    source = adapter if command == "inspect" else base
    more = [] if command == "inspect" else ["--target-modules", "q_proj"]
    (source / name).unlink()
    (source / name).symlink_to("nowhere")
    result = tinylora(command, source, *more)
    assert (result.code, f"{source / name}: can't be used (No such file or directory)" in result.err) == (1, True)
    (source / name).unlink()
    os.mkfifo(source / name)
    result = tinylora(command, source, *more)
    assert (result.code, f"{source / name}: is no file, but a pipe" in result.err) == (1, True)


def test_pipes_beside_a_source(copied: Callable[[str], tuple[Path, Path]], tinylora: Callable[..., Any]) -> None:
    """Files that options name, and that a command looks for."""
    adapter, base = copied("peft020-tiny")
    os.mkfifo(base / "pipe")
    for option in ("--architecture", "--module-order"):
        result = tinylora("merge", adapter, "--base", base, option, base / "pipe", "-o", base.parent / "out")
        assert (result.code, "a pipe or a device" in result.err) == (1, True), result
    os.mkfifo(base / "tokenizer.json")
    assert tinylora("merge", adapter, "--base", base, "-o", base.parent / "out").code == 0
    assert not (base.parent / "out" / "tokenizer.json").exists()


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_name("other"))
    path.with_name("other").replace(path)


def rewrite(path: Path) -> None:
    data, state = path.read_bytes(), path.stat()
    path.write_bytes(data[::-1])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "it had 3 bytes, and has 2": lambda path: os.truncate(path, 2),
    "it was written to": rewrite,
    "another file has its name": replace,
    "it is gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", CHANGES)
def test_changes_are_told(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a"
    path.write_text("abc")
    with watching_inputs():
        assert read_input(path) == b"abc"
        require_unchanged(but=NOWHERE)
        CHANGES[how](path)
        with pytest.raises(MismatchError, match=f"was changed while this run used it: {how}") as caught:
            require_unchanged(but=NOWHERE)
        assert caught.value.where == str(path)
        require_unchanged(but=tmp_path)  # what is being written
    require_unchanged(but=NOWHERE)  # nothing is remembered any more


def test_the_first_opening_counts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("abc")
    with watching_inputs():
        read_input(path)
        path.write_text("abcd")
        read_input(path)
        with pytest.raises(MismatchError):
            require_unchanged(but=NOWHERE)


def test_a_function_in_a_function_goes_on_watching(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("abc")

    @watches_inputs
    def read(times: int) -> int:
        """Its own words."""
        return len(read_input(path)) * times

    assert (read.__name__, read.__doc__) == ("read", "Its own words.")
    assert read(2) == 6
    with watching_inputs():
        assert read(times=2) == 6
        path.write_text("abcd")
        with pytest.raises(MismatchError):
            require_unchanged(but=NOWHERE)
