"""Merges against what PEFT's live modules compute, PEFT's own merge, and the model's forward pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import recipe
import torch
import transformers
from fixture_data import MERGEABLE, Fixture, fixture, tensors

from tinylora_tools.bases.architectures.named import from_config
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.ops.inspect.run import inspect
from tinylora_tools.ops.merge.run import merge

every_fixture = pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)


Array = np.ndarray[Any, Any]


def ulp(values: Array, dtype: np.dtype[Any]) -> Array:
    """The distance between neighbouring numbers of a dtype at each value."""
    info = ml_dtypes.finfo(dtype) if dtype.name == "bfloat16" else np.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(values), float(info.smallest_normal))))
    result: Array = 2.0 ** (exponent - info.nmant)
    return result


def stored_weight(case: Fixture, module: str, base: dict[str, Array]) -> str:
    """The base's tensor for a module: its own, or the one that it is tied to."""
    config = json.loads((case.base / "config.json").read_text())
    architecture = from_config(config)
    assert architecture is not None
    parameter = f"{module}.weight"
    tie = architecture.ties.of(parameter)
    names = [parameter] + ([tie.stored, *tie.members] if tie else [])
    return next(key for name in names for key in architecture.stored_keys(name) if key in base)


@every_fixture
def test_every_tensor_is_what_the_live_modules_say(case: Fixture, tmp_path: Path) -> None:
    """The bound per element that core.block_sum promises, against float64; everything else byte for byte."""
    report = merge([case.adapter], tmp_path / "out", case.base)
    base, out = tensors(case.base), tensors(tmp_path / "out")
    adapter = read_adapter(case.adapter)
    replaced = {
        name.removesuffix(".weight"): adapter.file.read(replacement.tensor.name)
        for name, replacement in adapter.replaced.items()
    }
    changed = set()
    for row in case.modules:
        module = row["name"]
        key = stored_weight(case, module, base)
        own = next((k for k in (f"{module}.weight", f"{module.partition('.')[2]}.weight") if k in out), key)
        W = replaced.get(module, base[key]).astype(np.float64)
        live = case.live
        A, B = live[f"{module}.A"].astype(np.float64), live[f"{module}.B"].astype(np.float64)
        BR = B @ np.einsum("i,ijk->jk", live[f"{module}.v"].astype(np.float64), live[f"{module}.P"].astype(np.float64))
        delta, weight = BR @ A, np.abs(BR) @ np.abs(A)
        if row["kind"] == "Conv1D":
            delta, weight = delta.T, weight.T
        exact = W + delta
        result = out[own]
        assert result.dtype == base[key].dtype
        unit = ulp(exact, result.dtype)
        if result.dtype.itemsize == 2:
            bound = unit / 2 + (A.shape[0] + 2) * 2.0**-24 * (np.abs(W) + weight)
        else:
            bound = unit
        assert np.all(np.abs(result.astype(np.float64) - exact) <= bound), module
        changed.add(own)
    assert report.modules_merged == len(case.modules)
    for name in set(out) - changed:
        untouched = base.get(name)
        brought = [r.tensor.name for p, r in adapter.replaced.items() if name in (p, p.partition(".")[2])]
        expected = adapter.file.read(brought[0]) if brought else untouched
        if expected is None:  # the other side of a tie that was undone
            assert report.tied == "untied"
            expected = base[stored_weight(case, name.removesuffix(".weight"), base)]
        assert out[name].tobytes() == expected.astype(out[name].dtype).tobytes(), name


@every_fixture
def test_agrees_with_pefts_merge(case: Fixture, tmp_path: Path) -> None:
    """With --tied share, to 1e-5 of the update's norm in float32 and to rounding in 16 bits."""
    report = merge([case.adapter], tmp_path / "out", case.base, tied="share")
    lost_bias = any("no bias was saved" in warning for warning in report.warnings)  # PEFT 0.20's merge still had it
    assert lost_bias == (case.name == "peft020-bert-bias")
    base, out, theirs = tensors(case.base), tensors(tmp_path / "out"), tensors(case.merged)
    for name, ours in out.items():
        found = next((k for k in (name, f"transformer.{name}") if k in theirs), None)
        assert found is not None, name
        if lost_bias and name.endswith(".bias"):
            continue
        difference = np.linalg.norm(ours.astype(np.float64) - theirs[found].astype(np.float64))
        update = np.linalg.norm(ours.astype(np.float64) - base[name].astype(np.float64))
        if ours.dtype == np.float32:
            assert difference <= 1e-5 * update + 1e-7, name
        elif case.name == "peft021-no-autocast":  # PEFT then adds in bfloat16, an update rounded to bfloat16
            assert difference <= 1e-2 * update
        else:
            # A value that lies between two 16-bit numbers may go either way; no value differs by more.
            step = np.abs(ours.astype(np.float64) - theirs[found].astype(np.float64))
            assert np.all(step <= 1.01 * ulp(np.abs(ours.astype(np.float64)), ours.dtype)), name
            assert np.mean(step > 0) <= 0.02, name


@every_fixture
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_computes_what_the_adapted_model_computes(case: Fixture, tmp_path: Path) -> None:
    """The merged directory loads in transformers and gives the logits of PEFT's forward pass."""
    if case.name == "peft020-bert-bias":
        pytest.skip("PEFT 0.20 didn't save the biases that its forward pass had")
    if case.facts["transformers"].startswith("4."):
        pytest.skip("transformers 5 fuses experts that transformers 4 adapted one by one")
    merge([case.adapter], tmp_path / "out", case.base, dtype="float32")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = {"GPT2Model": "GPT2LMHeadModel"}.get(config["architectures"][0], config["architectures"][0])
    model = getattr(transformers, name).from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    inputs = {
        key.removeprefix("input."): torch.from_numpy(value)
        for key, value in case.live.items()
        if key.startswith("input.")
    }
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    expected = case.live["logits"]
    assert np.max(np.abs(logits - expected)) <= 2e-4 * np.max(np.abs(expected))


def test_an_adapter_in_the_bases_directory(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """What it was merged into loads as a model of its own, and inspect tells of both."""
    adapter, base = copied("peft021-13-numbers")
    merge([adapter], tmp_path / "plain", base)
    for path in adapter.iterdir():
        shutil.copyfile(path, base / path.name)
    merge([base], tmp_path / "out", base)
    plain, out = ({path.name for path in (tmp_path / name).iterdir()} for name in ("plain", "out"))
    assert out == plain
    report, weights = inspect(base), base / "adapter_model.safetensors"
    assert report.kind == "checkpoint"
    assert any(f"tinylora_tools.inspect({weights})`" in warning for warning in report.warnings)
    assert inspect(weights).kind == "tinylora-adapter"
    assert inspect(tmp_path / "out").warnings == []


def test_sums_scaled_adapters(tmp_path: Path) -> None:
    first, second = fixture("peft021-layers"), fixture("peft020-second")
    merge([first.adapter, second.adapter], tmp_path / "out", first.base, scale=(2.0, -0.5), dtype="float32")
    base, out = tensors(first.base), tensors(tmp_path / "out")
    total: dict[str, Array] = {}
    for case, scale in ((first, 2.0), (second, -0.5)):
        for row in case.modules:
            key = f"{row['name']}.weight"
            total[key] = total.get(key, 0.0) + scale * case.delta(row["name"])
    for name, values in base.items():
        exact = values.astype(np.float64) + total.get(name, 0.0)
        assert np.all(np.abs(out[name] - exact) <= ulp(exact, np.dtype(np.float32))), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_scales_itself(tmp_path: Path) -> None:
    """Gemma 3's: PEFT's forward pass adds the update behind the scale, so the merge adds it divided by that."""
    settings = {**recipe._DECODER, "head_dim": 8, "sliding_window": 16}
    base = recipe.Base("Gemma3ForCausalLM", settings)
    recipe.make_base(base, tmp_path / "base")
    case = recipe.Case("", "base", {"r": 2, "u": 5, "target_modules": ["embed_tokens", "q_proj"]}, "", task="CAUSAL_LM")
    recipe.make_adapter(case, base, tmp_path / "base", tmp_path / "made", "base")
    made = Fixture(tmp_path / "made")
    merge([made.adapter], tmp_path / "out", tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(made.live["input.input_ids"])).logits.numpy()
    expected = made.live["logits"]
    assert np.max(np.abs(logits - expected)) <= 2e-4 * np.max(np.abs(expected))
