"""`tinylora project` as it is typed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixture_data import fixture
from safetensors.numpy import load_file

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ADAPTER", "-o", "OUT", "--count", "3"], "none of --seed, -u, -r, --count, --dtype: the adapter has them"),
        (["ADAPTER", "-o", "OUT", "--dtype", "bf16"], "none of --seed, -u, -r, --count, --dtype: the adapter has them"),
        (["ADAPTER", "-o", "OUT", "--seed", "0"], "none of --seed, -u, -r, --count, --dtype: the adapter has them"),
        (["ADAPTER"], "give -o OUT"),
        (["--seed", "1", "-u", "2", "-r", "2", "-o", "OUT", "--base", "b"], "tell of an adapter; none is given"),
        (
            ["--seed", "1", "-u", "2", "-r", "2", "-o", "OUT", "--module-order", "m"],
            "tell of an adapter; none is given",
        ),
        (["--seed", "1", "-u", "2", "-o", "OUT"], "Give --seed, -u and -r, or an adapter."),
        (["--seed", "1", "-u", "2", "-r", "2"], "Say what to do with P"),
        (["--seed", "1", "-u", "2", "-r", "2", "--count", "0", "-o", "OUT"], "x>=1"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together(complaint: Callable[..., str], arguments: list[str], said: str) -> None:
    adapter = fixture("peft021-13-numbers").adapter
    assert said in complaint(2, "project", *(adapter if part == "ADAPTER" else part for part in arguments))


def test_digests_are_those_of_the_file_and_of_torch(tinylora: Run, tmp_path: Path) -> None:
    """Digests are all that is on stdout, as sha256sum prints them."""
    out = tmp_path / "P.safetensors"
    result = tinylora(
        "project", "--seed", 40, "-u", 5, "-r", 2, "--count", 3, "--stream", "torch", "--digest", "-o", out
    )
    assert result.code == 0
    assert result.err == f"Wrote {out}: 3 projections drawn, torch\n"
    lines = []
    for i in range(3):
        P = torch.normal(0.0, 0.5**0.5, (5, 2, 2), generator=torch.Generator().manual_seed(40 + i)).numpy()
        assert load_file(out)[f"P.{i}"].tobytes() == P.tobytes()
        lines.append(f"{hashlib.sha256(P.tobytes()).hexdigest()}  P.{i}")
    assert result.out.splitlines() == lines


def test_an_adapter_gets_the_p_that_peft_drew(tinylora: Run, tmp_path: Path) -> None:
    case, out = fixture("peft021-t5-fp16"), tmp_path / "with-p"
    result = tinylora("project", case.adapter, "--base", case.base, "-o", out, "--digest")
    stored = load_file(out / "adapter_model.safetensors")
    assert json.loads((out / "adapter_config.json").read_text())["save_projection"] is True
    for row in case.modules:
        P = stored[f"base_model.model.{row['name']}.tinylora_P"]
        assert P.astype("f4").tobytes() == case.live[f"{row['name']}.P"].astype("f4").tobytes()
        assert f"{hashlib.sha256(P.tobytes()).hexdigest()}  base_model.model.{row['name']}.tinylora_P" in result.out
    assert result.err.splitlines()[0] == f"Wrote {out}: {len(case.modules)} projections drawn, torch-cpu-avx2"
