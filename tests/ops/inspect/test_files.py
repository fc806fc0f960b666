"""Files beside what the Hub records of them, by the real huggingface_hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from hub_runs import run_beside
from hub_server import COMMIT, Hub, hub_serving

CASE = fixture("peft021-layers")
SOURCE = "hf://owner/name"
WEIGHTS = "model.safetensors"

Tinylora = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def tinylora(tmp_path: Path) -> Tinylora:
    def run(hub: Hub | None, *words: str, **settings: str) -> tuple[int, Any, str]:
        address = hub.address if hub else "http://127.0.0.1:9"
        return run_beside(address, tmp_path / "home", *words, **settings)

    return run


def downloaded(hub: Hub, tmp_path: Path, *more: str) -> Path:
    """Where the repository's files are, once huggingface_hub has fetched them."""
    program = (
        "import sys, huggingface_hub as h; print(h.snapshot_download('owner/name', local_dir=sys.argv[1] or None))"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.address, "PATH": ""}
    line = [sys.executable, "-c", program, *(more or [""])]
    return Path(subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.strip())


def verdicts(report: Any) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in report["files"]}


def test_files_in_the_cache(tmp_path: Path, tinylora: Tinylora) -> None:
    with hub_serving(CASE.base) as hub:
        snapshot = downloaded(hub, tmp_path)
        code, report, said = tinylora(hub, "inspect", SOURCE, "--check")
        assert (code, report["ok"]) == (0, True), said
        assert report["path"] == report["recorded_by"] == f"{SOURCE}@{COMMIT}"
        assert verdicts(report) == dict.fromkeys((path.name for path in CASE.base.iterdir()), "same")
        (snapshot / "config.json").unlink()
        (snapshot / "mine.txt").write_text("mine")
        blob = (snapshot / WEIGHTS).resolve()
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
        code, report, said = tinylora(hub, "inspect", SOURCE, "--check")
    assert (code, report["ok"]) == (1, False), said
    found = verdicts(report)
    assert (found[WEIGHTS], found["mine.txt"], found["config.json"]) == ("differs", "not-recorded", "same")


@pytest.mark.parametrize("offline", [False, True])
def test_a_directory_that_was_downloaded(offline: bool, tmp_path: Path, tinylora: Tinylora) -> None:
    with hub_serving(CASE.base) as hub:
        directory = downloaded(hub, tmp_path, *([] if offline else [str(tmp_path / "own")]))
    source = SOURCE if offline else str(tmp_path / "own")
    more = {"HF_HUB_OFFLINE": "1"} if offline else {}
    code, report, said = tinylora(None, "inspect", source, "--check", **more)
    assert (code, {*verdicts(report).values()}) == (0, {"same"}), said
    assert report["recorded_by"] == "huggingface_hub, when it downloaded them"
    (directory / WEIGHTS).resolve().write_bytes(b"other")
    code, report, _ = tinylora(None, "inspect", source, "--check", **more)
    assert (code, verdicts(report)[WEIGHTS]) == (1, "differs")


def test_weights_that_are_not_here_are_said_to_be(tmp_path: Path, tinylora: Tinylora) -> None:
    with hub_serving(CASE.base) as hub:
        assert tinylora(hub, "inspect", SOURCE)[0] == 0
        code, report, _ = tinylora(hub, "inspect", SOURCE, "--check")
        assert hub.sent < 70_000
    assert (code, verdicts(report)[WEIGHTS]) == (0, "not-here")


def test_nothing_is_recorded_of_other_directories(tinylora: Tinylora) -> None:
    code, report, _ = tinylora(None, "inspect", str(CASE.base), "--check")
    assert (code, report["error"]["message"]) == (1, "nothing records what the Hub has of these files")
    assert "hf://owner/name" in report["error"]["hint"]
    code, _, said = tinylora(None, "inspect", str(CASE.base), str(CASE.base), "--check")
    assert (code, "--check takes one SOURCE" in said) == (2, True)
