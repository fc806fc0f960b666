"""A live model where torch's devices are: beside PEFT's, in lower precision, compiled, moved, merged and synced."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from live_models import CASES, built, by_peft, loaded, loaded_by_peft, off, ours, output, quietly, saved

from tinylora_tools.nn import fast_peft

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ALL: dict[str, Any] = {"target_modules": "all-linear", "u": 4, "weight_tying": 1.0}

on_each = pytest.mark.parametrize("device", DEVICES)


def moved(inputs: dict[str, Any], device: str) -> dict[str, Any]:
    return {key: value.to(device) for key, value in inputs.items()}


@on_each
@pytest.mark.parametrize("name", ["conv1d", "embedding", "qwen2", "gpt2", "t5", "deberta"])
def test_what_peft_made_there_computes_alike(name: str, device: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, inputs = built(name).to(device), moved(case.inputs, device)
    theirs = by_peft(model, **case.config)
    mine = loaded(model, saved(theirs, tmp_path / "a"))
    assert {tensor.device.type for tensor in mine.state_dict().values()} == {device}
    assert off(output(mine, inputs), output(theirs, inputs)) < 1e-5
    assert off(output(mine, inputs), output(model, inputs)) > 1e-4


@on_each
def test_a_new_adapter_there_is_that_of_the_cpu(device: str) -> None:
    """A and B up to rounding, P bit for bit; saved, merged, unmerged bit for bit, synced."""
    inputs = moved(CASES["qwen2"].inputs, device)
    here, there = ours(built("qwen2"), **ALL), ours(built("qwen2").to(device), **ALL)
    for key, tensor in here.state_dict().items():
        found = there.state_dict()[key].cpu()
        if "tinylora_A" in key or "tinylora_B" in key:
            assert off(found, tensor) < 1e-5, key
        else:
            assert torch.equal(found, tensor), key
    before = {key: tensor.clone() for key, tensor in there.state_dict().items()}
    beside = output(there, inputs)
    there.merge_adapter(safe_merge=True)
    assert off(output(there, inputs), beside) < 1e-4
    there.unmerge_adapter()
    assert all(torch.equal(tensor, before[key]) for key, tensor in there.state_dict().items())
    synced = there.lora_state_dict()
    for key, tensor in here.lora_state_dict().items():
        assert off(synced[key].cpu(), tensor) < 1e-5, key


@on_each
def test_a_model_moves_and_computes_the_same(device: str) -> None:
    mine = ours(built("qwen2"), **ALL)
    expected = output(mine, CASES["qwen2"].inputs)
    mine.to(device)
    assert off(output(mine, moved(CASES["qwen2"].inputs, device)).cpu(), expected) < 1e-4
    mine.to("cpu")
    assert torch.equal(output(mine, CASES["qwen2"].inputs), expected)


@on_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_v(device: str, dtype: torch.dtype) -> None:
    mine = ours(built("qwen2").to(device), **ALL)
    inputs = moved(CASES["qwen2"].inputs, device)
    with torch.autocast(device, dtype), quietly():
        loss = mine(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    grads = {name: p.grad for name, p in mine.named_parameters() if p.requires_grad}
    assert grads and all(
        g is not None and bool(g.isfinite().all()) and float(g.abs().sum()) > 0 for g in grads.values()
    )


@on_each
def test_a_compiled_model_computes_alike(device: str) -> None:
    if device == "cpu":
        pytest.skip("tests/nn/test_adapted.py compiles on the CPU")
    mine = ours(built("qwen2").to(device), **ALL)
    inputs = moved(CASES["qwen2"].inputs, device)
    compiled = torch.compile(copy.deepcopy(mine))
    assert off(output(compiled, inputs), output(mine, inputs)) < 1e-4


@on_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peft_s_own_is_made_and_loaded_fast_there(device: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, inputs = built("qwen2", dtype).to(device), moved(CASES["qwen2"].inputs, device)
    theirs = by_peft(model, **ALL)
    saved(theirs, tmp_path / "a")
    with fast_peft():
        mine = by_peft(model, **ALL)
        again = loaded_by_peft(model, tmp_path / "a")
    assert isinstance(mine, peft.PeftModel)
    found = mine.state_dict()
    for key, tensor in theirs.state_dict().items():
        assert found[key].device == tensor.device and found[key].dtype == tensor.dtype
        if "tinylora_A" in key or "tinylora_B" in key:
            assert off(found[key].abs(), tensor.abs()) < (2e-4 if dtype == torch.float32 else 2**-6), key
        else:
            assert torch.equal(found[key], tensor), key
    assert torch.equal(output(again, inputs), output(theirs, inputs))
