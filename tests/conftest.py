"""Fixtures that many tests share."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fixture_data import fixture

from tinylora_tools.cli import main


class Result(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Header = dict[str, Any]


@pytest.fixture
def write_raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a safetensors file from a header as it is given, true or not, and bytes of data."""

    def write(
        header: Header | bytes, data: bytes = b"", *, length: int | None = None, name: str = "x.safetensors"
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return write


@pytest.fixture
def tinylora(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["tinylora", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A fixture's adapter and base, copied to be damaged."""

    def copy(name: str) -> tuple[Path, Path]:
        case = fixture(name)
        adapter, base = tmp_path / "in" / "adapter", tmp_path / "in" / "base"
        shutil.copytree(case.adapter, adapter)
        shutil.copytree(case.base, base)
        return adapter, base

    return copy


@pytest.fixture
def leave_uninitialised(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Keep a class of transformers from giving its weights their initial values, for this test."""

    def leave(model_class: type) -> None:
        for base in model_class.__mro__:
            if "_init_weights" in vars(base):
                monkeypatch.setattr(base, "_init_weights", lambda *_: None)

    return leave
