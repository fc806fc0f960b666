"""count, init, factor and verify-base as they are typed."""

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
from fixture_data import ROOT, fixture
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_count_shows_groups_and_budgets(tinylora: Run) -> None:
    result = tinylora("count", BASE, "--target-modules", "all-linear", "-u", 13, "--weight-tying", 1)
    assert result.code == 0
    assert "13 parameters in 1 group: 52 bytes in float32, 26 bytes in bfloat16" in result.out
    assert "84 modules" in result.out
    result = tinylora("count", BASE, "--target-modules", "all-linear", "--budget", 13)
    lines = [line.split() for line in result.out.splitlines()]
    assert ["13", "1", "1", "13", "26", "bytes"] in lines
    assert all(int(line[3]) <= 13 for line in lines if len(line) == 6 and line[0].isdigit())


def test_count_as_json(tinylora: Run) -> None:
    result = tinylora("count", BASE, "-r", 4, "--bias", "all", "--modules-to-save", "lm_head", "--json")
    report = json.loads(result.out)
    assert report["trainable_parameters"] == 64 * 24
    assert report["trainable_bytes_by_dtype"] == {"float32": 6144, "bfloat16": 3072, "float16": 3072}
    assert report["modules_to_save_parameters"] == 96 * 16
    assert report["bias_parameters"] == 12 * (16 + 16 + 16)
    assert report["stored_bytes"] == report["stored_bytes_with_projection"] > report["stored_bytes_without_projection"]
    assert report["groups"][1] == {"group": 1, "parameters": 64, "modules": ["model.layers.0.self_attn.v_proj"]}
    assert report["modules"][1]["index"] == 1


def test_init_then_verify_then_merge(tinylora: Run, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    result = tinylora("init", BASE, "-o", out, "--init-weights", "uniform", "--init-seed", 3, "-u", 5, "--json")
    assert (result.code, json.loads(result.out)["init_seed"]) == (0, 3)
    result = tinylora("verify-base", out, "--base", BASE)
    assert result.code == 0
    assert "The factors are this base's." in result.out
    assert tinylora("merge", out, "--base", BASE, "-o", tmp_path / "merged").code == 0
    assert tinylora("init", BASE, "-o", out).code == 1
    assert tinylora("init", BASE, "-o", out, "-f", "-q").out == ""


def test_verify_base_exits_with_1_for_a_stranger(tinylora: Run) -> None:
    result = tinylora(
        "verify-base", fixture("peft021-13-numbers").adapter, "--base", ROOT / "bases" / "llama-fp32", "--json"
    )
    assert result.code == 1
    assert json.loads(result.out)["verdict"] == "other-model"


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", "nowhere"], "no such file or directory"),
        (["count", BASE, "--target-modules", "q_prj"], "Did you mean q_proj"),
        (["count", BASE, "--target-modules", "mlp"], "no Linear, Conv1D or Embedding"),
        (["count", BASE, "--layers-pattern", "layers"], "without layers_to_transform"),
        (["count", BASE, "--layers-to-transform", "99"], "no module in the layers asked for matches"),
        (["count", BASE, "-r", "0"], "expected positive integers"),
        (["count", BASE, "--weight-tying", "1.5"], "from 0 to 1"),
        (["count", BASE, "--projection-seed", str(2**64)], "out of torch's range"),
        (["init", BASE, "-o", BASE / "inside"], "lies inside the input"),
        (["init", BASE, "-o", "OUT", "--device", "cuda:99"], "isn't usable here"),
        (["factor", BASE, "-o", "OUT", "-r", "-1"], "expected a positive integer"),
        (["factor", BASE, "-o", BASE], "is a directory"),
        (["verify-base", BASE, "--base", BASE], "no adapter here"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(tinylora: Run, tmp_path: Path, arguments: list[object], said: str) -> None:
    result = tinylora(*(tmp_path / "out" if part == "OUT" else part for part in arguments))
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert said in " ".join(result.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", BASE, "--target-modules", "(q_proj"], "no regular expression"),
        (["count", BASE, "--layers-to-transform", "one"], "expected layer numbers"),
        (["count", BASE, "--weight-tying", "nan"], "is not a finite number"),
        (["init", BASE, "-o", "OUT", "--task-type", "poetry"], "is not one of"),
        (["factor", BASE, "-o", "OUT", "--threads", "0"], "x>=1"),
    ],
    ids=str,
)
def test_values_that_cannot_be_parsed_are_wrong_usage(
    tinylora: Run, tmp_path: Path, arguments: list[object], said: str
) -> None:
    result = tinylora(*(tmp_path / "out" if part == "OUT" else part for part in arguments))
    assert result.code == 2
    assert said in " ".join(result.err.split())
    assert not (tmp_path / "out").exists()


def test_an_interrupted_factor_says_how_to_go_on(tmp_path: Path) -> None:
    """A real Ctrl-C, at a time when some modules are done."""
    base = tmp_path / "base"
    base.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {f"layers.{i}.proj.weight": torch.randn(1500, 1500, generator=generator) for i in range(12)}
    save_file(weights, base / "model.safetensors")
    command = [sys.executable, "-m", "tinylora_tools", "factor", base, "-o", tmp_path / "f.safetensors"]
    command += ["--target-modules", "proj", "--threads", "1"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    parts = tmp_path / ".f.safetensors.tinylora-partial"
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
    assert not parts.exists()
