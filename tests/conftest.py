"""Fixtures that many tests share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: threads of their own would wait for each other, ten times as long as they compute.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# What one test computed, another one would find.
os.environ["TINYLORA_CACHE_DIR"] = ""

# Else huggingface_hub asks the Hub which programs may be calling it.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import no_network
from damage import snapshot
from fixture_data import fixture
from hub_runs import run_beside
from hub_uploads import Inbox, hub_taking

from tinylora_tools.cli import main

no_network.forbid()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Who has done its own tests takes some of another's: else the last ones run alone, for minutes."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


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
def refused(tinylora: Callable[..., Result], tmp_path: Path) -> Callable[..., str]:
    """Merge, expect a refusal, and check what every refusal promises; returns the message in one line."""

    def check(adapter: Path, base: Path, *options: str) -> str:
        before = snapshot(tmp_path / "in")
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "out" / "merged", *options)
        assert result.code == 1, result
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
        assert snapshot(tmp_path / "in") == before
        return " ".join(result.err.split())

    return check


@pytest.fixture
def complaint(tinylora: Callable[..., Result], tmp_path: Path) -> Callable[..., str]:
    """Run a command that is going to fail, with OUT for a path that it may not write; returns its message in one
    line."""

    def check(code: int, *arguments: object) -> str:
        result = tinylora(*(tmp_path / "out" if part == "OUT" else part for part in arguments))
        assert result.code == code, result
        assert code != 1 or result.err.startswith("error: ")
        assert not (tmp_path / "out").exists()
        return " ".join(result.err.split())

    return check


@pytest.fixture
def leave_uninitialised(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Keep a class of transformers from giving its weights their initial values, for this test."""

    def leave(model_class: type) -> None:
        for base in model_class.__mro__:
            if "_init_weights" in vars(base):
                monkeypatch.setattr(base, "_init_weights", lambda *_: None)

    return leave


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A Hub that this process pushes to, logged in."""
    from huggingface_hub import constants  # which few tests need

    with hub_taking() as found:
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield found


@pytest.fixture
def pushing(tmp_path: Path) -> Callable[..., tuple[int, Any, str]]:
    """Run a command beside a Hub that is pushed to, logged in to it."""

    def command(hub: Inbox, *words: str, **settings: str) -> tuple[int, Any, str]:
        given = {"HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1", **settings}
        return run_beside(hub.address, tmp_path / "home", *words, **given)

    return command
