"""`tinylora factor` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixture_data import ROOT
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_factor_shows_spectra_and_json_has_the_certificates(tinylora: Run, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    result = tinylora("factor", BASE, "-o", out, "-r", 3, "--target-modules", "all-linear")
    assert result.code == 0
    assert "84 modules, 3 triplets each" in result.out
    assert "█" in result.out
    result = tinylora("factor", BASE, "-o", out, "-r", 3, "--target-modules", "all-linear", "--json")
    report = json.loads(result.out)
    assert report["reused"] == 84
    keys = {"name", "shape", "method", "iterations", "residual", "gap", "seconds"}
    assert all(keys <= module.keys() for module in report["modules"])
    assert report["seconds"] > 0


def test_an_interrupted_factor_says_how_to_go_on(tmp_path: Path) -> None:
    """A real Ctrl-C, at a time when some modules are done."""
    base = tmp_path / "base"
    base.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {f"layers.{i}.proj.weight": torch.randn(1000, 1000, generator=generator) for i in range(12)}
    save_file(weights, base / "model.safetensors")
    command = [sys.executable, "-m", "tinylora_tools", "factor", base, "-o", tmp_path / "f.safetensors"]
    command += ["--target-modules", "proj", "--threads", "1"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    parts = tmp_path / ".f.safetensors.tinylora-partial" / "parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 12 modules are kept beside" in err
    assert "Traceback" not in err
    assert not (tmp_path / "f.safetensors").exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert json.loads(done.stdout)["reused"] >= 2
    assert len(load_file(tmp_path / "f.safetensors")) == 36
    assert not parts.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["factor", BASE, "-o", "OUT", "-r", "-1"], "expected a positive integer"),
        (["factor", BASE, "-o", BASE], "is a directory"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(complaint: Callable[..., str], arguments: list[object], said: str) -> None:
    assert said in complaint(1, *arguments)
