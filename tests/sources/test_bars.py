"""huggingface_hub's bars, where a command is to be quiet or nobody looks."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from fixture_data import fixture
from hub_server import hub_serving
from huggingface_hub.utils import are_progress_bars_disabled

from tinylora_tools.sources.bars import as_told, unseen

CASE = fixture("peft021-layers")


@pytest.mark.parametrize(
    ("outer", "inner", "hidden"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_bars_are_hidden_while_they_are_to_be(outer: bool, inner: bool, hidden: bool) -> None:
    before = are_progress_bars_disabled()
    with unseen(outer), unseen(inner), as_told():
        assert are_progress_bars_disabled() == (hidden or before)
    assert are_progress_bars_disabled() == before


@pytest.mark.parametrize(("quiet", "terminal"), [(False, True), (True, True), (False, False)])
def test_a_download_shows_a_bar_on_a_terminal_alone(quiet: bool, terminal: bool, tmp_path: Path) -> None:
    line = ["merge", str(CASE.adapter), "-o", str(tmp_path / "merged"), "--base", "hf://owner/name", "--dry-run"]
    command = [sys.executable, "-m", "tinylora_tools", *line, *(["-q"] if quiet else [])]
    with hub_serving(CASE.base) as hub:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.address, "TERM": "xterm"}
        environment.pop("HF_HUB_OFFLINE", None)
        ours, theirs = os.openpty() if terminal else os.pipe()
        if terminal:
            termios.tcsetwinsize(theirs, (24, 80))
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # a terminal's end
                break
            if not piece:
                break
            said += piece
        os.close(ours)
        assert run.wait() == 0, said
    shows = any(word in said for word in (b"Fetching", b"model.safetensors", b"Download"))
    assert shows == (terminal and not quiet), said
