"""Paths that hold nothing, or that the operating system keeps: said of any command's input, exit 1."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import edit_json
from fixture_data import fixture

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_paths_that_are_not_there(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    for arguments in (
        ("inspect", "nowhere"),
        ("merge", "nowhere", "-o", tmp_path / "o"),
        ("merge", case.adapter, "--base", "nowhere", "-o", tmp_path / "o"),
        ("merge", case.adapter, "--base", case.base, "--module-order", "nowhere", "-o", tmp_path / "o"),
    ):
        result = tinylora(*arguments)
        assert (result.code, "no such file or directory" in result.err) == (1, True), result
    assert "hf://some/model" in tinylora("inspect", "some/model").err


def test_directories_that_hold_nothing(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    (tmp_path / "empty").mkdir()
    result = tinylora("merge", case.adapter, "--base", tmp_path / "empty", "-o", tmp_path / "o")
    assert (result.code, "no checkpoint here" in result.err) == (1, True)
    result = tinylora("merge", tmp_path / "empty", "--base", case.base, "-o", tmp_path / "o")
    assert (result.code, "no adapter here" in result.err) == (1, True)
    result = tinylora("inspect", tmp_path / "empty")
    assert (result.code, "neither an adapter nor a checkpoint" in result.err) == (1, True)
    result = tinylora("merge", case.merged, "--base", case.base, "-o", tmp_path / "o")
    assert result.code == 1


@pytest.mark.parametrize(
    ("name", "denied"),
    [
        ("peft020-tiny", "adapter/adapter_model.safetensors"),
        ("peft020-tiny", "adapter/adapter_config.json"),
        ("peft020-tiny", "base/model.safetensors"),
        ("peft021-pickled", "adapter/adapter_model.bin"),
    ],
)
def test_files_that_may_not_be_read(
    copied: Copied, tinylora: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, denied: str
) -> None:
    """Root may read everything, so the system's answer is made up."""
    adapter, base = copied(name)
    path, real = adapter.parent / denied, os.open

    def deny(opened: Any, *arguments: Any, **options: Any) -> int:
        if str(opened) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(opened, *arguments, **options)

    monkeypatch.setattr(os, "open", deny)
    for words in (("merge", adapter, "--base", base, "-o", tmp_path / "o"), ("inspect", path.parent)):
        result = tinylora(*words)
        assert (result.code, f"{path}: can't be used (Permission denied)" in result.err) == (1, True), result


def test_paths_that_no_file_can_have(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    long = "x" * 300
    for arguments in (("inspect", long), ("merge", long, "-o", "o"), ("merge", adapter, "--base", long, "-o", "o")):
        result = tinylora(*arguments)
        assert (result.code, f"{long}: can't be used (File name too long)" in result.err) == (1, True), result
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", "--module-order", base)
    assert (result.code, f"{base}: can't be used (Is a directory)" in result.err) == (1, True), result
    assert "no such file or directory" in tinylora("inspect", "~nobody-here/adapter").err
    for name in (
        long,
        "~nobody-here/base",
        "./base",
    ):  # what another machine calls its base is no fault of the adapter's
        edit_json(adapter / "adapter_config.json", base_model_name_or_path=name)
        assert tinylora("inspect", adapter).code == 0
        assert "isn't at hand" in tinylora("merge", adapter, "-o", tmp_path / "o").err
