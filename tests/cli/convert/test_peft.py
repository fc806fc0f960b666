"""`tinylora convert peft` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_data import fixture
from safetensors.numpy import load_file

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "option", [["--scale", "0.5"], ["--dtype", "bf16"], ["--for", "vllm"], ["--exact"]], ids=" ".join
)
def test_other_forms_options_are_wrong_usage(complaint: Callable[..., str], option: list[str]) -> None:
    adapter = fixture("peft020-tiny").adapter
    assert f"No such option '{option[0]}'" in complaint(2, "convert", "peft", adapter, "-o", "OUT", *option)


def test_one_adapter_at_a_time(complaint: Callable[..., str]) -> None:
    adapter = fixture("peft020-tiny").adapter
    assert "unexpected extra argument" in complaint(2, "convert", "peft", adapter, adapter, "-o", "OUT")


def test_p_goes_and_comes_as_it_is_asked_for(tinylora: Run, tmp_path: Path) -> None:
    """Left out, and drawn again, it is PEFT's; everything else is what it was."""
    case = fixture("peft021-named")
    original = load_file(case.adapter / "adapter_model.safetensors")
    without, back = tmp_path / "without", tmp_path / "back"
    result = tinylora("convert", "peft", case.adapter, "--base", case.base, "-o", without, "--no-save-projection")
    assert result.out.splitlines()[1] == "  4 modules, without P"
    assert "P is left out: it comes back bit for bit where torch draws as torch-cpu-avx2 does" in result.err
    left = load_file(without / "adapter_model.safetensors")
    assert left.keys() == {key for key in original if not key.endswith("tinylora_P")}
    result = tinylora("convert", "peft", without, "--base", case.base, "-o", back, "--save-projection")
    assert result.out.splitlines()[1] == "  4 modules, with P"
    restored = load_file(back / "adapter_model.safetensors")
    assert restored.keys() == original.keys()
    assert all(np.array_equal(restored[key], original[key]) for key in original)
    said = [json.loads((path / "adapter_config.json").read_text())["save_projection"] for path in (without, back)]
    assert said == [False, True]


def test_what_belonged_to_others_is_counted(tinylora: Run, tmp_path: Path) -> None:
    case, out = fixture("peft019-two"), tmp_path / "clean"
    before = load_file(case.adapter / "adapter_model.safetensors")
    result = tinylora("convert", "peft", case.adapter, "--base", case.base, "-o", out)
    after = load_file(out / "adapter_model.safetensors")
    assert after.keys() < before.keys()
    line = f"  2 modules, with P, {len(before) - len(after)} tensors of other adapters left out"
    assert result.out.splitlines()[1] == line
