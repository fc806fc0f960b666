"""`tinylora verify-seed` as it is typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import edit
from fixture_data import ROOT, fixture

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_verify_seed_says_what_drew_an_adapters_p(tinylora: Run) -> None:
    result = tinylora("verify-seed", fixture("peft021-scalar").adapter)
    assert result.code == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines[:3] == [
        "Seeds of P: seed-plus-index, seed 42",
        "Drawn by torch-cpu-scalar, rounded to float32",
        "4 of 4 modules as expected",
    ]
    assert "stored P torch-cpu-scalar identical 0 0.0e+00" in lines
    assert "stored P, torch-cpu-scalar: 4 of 4 modules identical" in lines
    assert any(line.startswith("stored P torch-cpu-avx2 differs ") for line in lines)
    assert lines[-1] == "All agree."


def test_a_p_that_was_tampered_with_fails_by_name(copied: Copied, tinylora: Run) -> None:
    """A number in a P, by one unit in its last place: exit 1 in text and in JSON, which is still the report."""
    adapter, _ = copied("peft021-scalar")
    module = "model.layers.1.self_attn.v_proj"

    def tamper(tensors: dict[str, Any]) -> None:
        P = tensors[f"base_model.model.{module}.tinylora_P"].reshape(-1)
        P.view("u4")[5] += 1

    edit(adapter / "adapter_model.safetensors", tamper)
    result = tinylora("verify-seed", adapter)
    assert result.code == 1
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "3 of 4 modules as expected" in lines
    assert any(line.startswith(f"P of {module} torch-cpu-scalar DIFFERS 1 ") for line in lines)
    assert lines[-2] == "Not all agree."
    assert lines[-1].startswith("next: The P in the file count, and load as they are.")
    result = tinylora("verify-seed", adapter, "--json")
    report = json.loads(result.out)
    assert (result.code, report["ok"], report["adapter"]["mismatched"]) == (1, False, [module])


def test_a_golden_file_is_kept_and_checked(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    golden, (adapter, _) = tmp_path / "golden.json", copied("peft021-scalar")
    assert tinylora("verify-seed", adapter, "--record", golden, "-q").code == 0
    recorded = golden.read_bytes()
    assert tinylora("verify-seed", adapter, "--golden", golden).code == 0
    refused = tinylora("verify-seed", adapter, "--record", golden)
    assert (refused.code, "exists already" in refused.err, golden.read_bytes()) == (1, True, recorded)
    other = fixture("peft021-bias-all").adapter
    assert tinylora("verify-seed", other, "--golden", golden).code == 1
    assert tinylora("verify-seed", other, "--record", golden, "-f", "-q").code == 0
    assert golden.read_bytes() != recorded


def test_a_seed_that_is_lost_is_recovered_from_a_merge(tinylora: Run) -> None:
    """The seed that is printed draws the P that PEFT's live modules held."""
    case = fixture("peft019-seed-only")
    lost = tinylora("verify-seed", case.adapter)
    assert (lost.code, "--against can recover it" in lost.out) == (1, True)
    result = tinylora("verify-seed", case.adapter, "--against", case.merged, "--base", case.base)
    found = re.search(r"^Seeds of P: shared-projection, seed (\d+) \+ (\d+)$", result.out, re.M)
    assert (result.code, found is not None) == (0, True), result
    assert found is not None
    seed = int(found[1]) + int(found[2])
    for row in case.modules:
        P = case.live[f"{row['name']}.P"]
        drawn = torch.normal(0.0, P.shape[1] ** -0.5, P.shape, generator=torch.Generator().manual_seed(seed)).numpy()
        np.testing.assert_allclose(P, drawn, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--tolerance", "-1", "x>=0"), ("--device", "tpu", "is not one of")],
)
def test_values_that_it_does_not_take(complaint: Callable[..., str], option: str, value: str, said: str) -> None:
    assert said in complaint(2, "verify-seed", ROOT, option, value)
