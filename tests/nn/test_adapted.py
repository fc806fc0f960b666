"""A model with adapters under what people run models with: checkpointing, compile, autocast, copies, processes."""

from __future__ import annotations

import copy
import io
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, DeepMLP, built, by_peft, loaded, off, ours, output, quietly, saved
from live_processes import in_one_process, model_of

from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel

ALL: dict[str, Any] = {"target_modules": "all-linear", "u": 4, "weight_tying": 0.8}
IDS = CASES["qwen2"].inputs["input_ids"]
TESTS = Path(__file__).parent.parent


def gradients(mine: Any) -> dict[str, torch.Tensor]:
    mine.zero_grad()
    with quietly():
        mine(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in mine.named_parameters() if p.grad is not None}


def same(here: dict[str, torch.Tensor], there: dict[str, torch.Tensor], within: float = 1e-4) -> None:
    assert set(here) == set(there) != set()
    for name, one in there.items():
        assert off(here[name], one) < within, name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    mine = ours(built("qwen2"), **ALL).train()
    plain = gradients(mine)
    with quietly():
        mine.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    same(gradients(mine), plain)
    same(gradients(mine), plain)


def test_one_forward_may_be_gone_back_through_twice() -> None:
    mine = ours(built("qwen2"), **ALL)
    plain = gradients(mine)
    mine.zero_grad()
    loss = mine(input_ids=IDS, labels=IDS).loss
    loss.backward(retain_graph=True)
    loss.backward()
    same({name: p.grad / 2 for name, p in mine.named_parameters() if p.grad is not None}, plain)


def test_two_forwards_then_two_backwards() -> None:
    mine = ours(built("qwen2"), **ALL)
    plain = gradients(mine)
    mine.zero_grad()
    first, second = mine(input_ids=IDS, labels=IDS).loss, mine(input_ids=IDS, labels=IDS).loss
    first.backward()
    second.backward()
    same({name: p.grad / 2 for name, p in mine.named_parameters() if p.grad is not None}, plain)


@pytest.mark.filterwarnings("ignore")
def test_it_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    mine: Any = ours(DeepMLP(), target_modules=["lin0", "lin2"], u=4)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    x = torch.linspace(-1, 1, 20).reshape(2, 10)
    assert torch.allclose(compiled(x), mine(x), atol=1e-6)
    mine(x).square().sum().backward()
    eager = {name: p.grad.clone() for name, p in mine.named_parameters() if p.grad is not None}
    mine.zero_grad()
    compiled(x).square().sum().backward()
    same({name: p.grad for name, p in mine.named_parameters() if p.grad is not None}, eager)
    with torch.no_grad():
        next(mine.tinylora_v.parameters()).add_(1.0)
    assert torch.allclose(compiled(x), mine(x), atol=1e-6)
    with mine.disable_adapter():
        assert torch.allclose(compiled(x), mine(x), atol=1e-6)
    assert torch.allclose(compiled(x), mine(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_transformer_compiles_without_a_graph_break_in_the_layers() -> None:
    torch._dynamo.reset()
    mine: Any = ours(built("qwen2"), **ALL)
    explained = torch._dynamo.explain(mine)(input_ids=IDS)
    assert explained.graph_break_count == torch._dynamo.explain(built("qwen2"))(input_ids=IDS).graph_break_count
    compiled = torch.compile(mine, backend="aot_eager")
    with torch.no_grad():
        assert off(compiled(input_ids=IDS).logits, mine(input_ids=IDS).logits) < 1e-5


def test_autocast_is_peft_s(tmp_path: Path) -> None:
    model = built("qwen2")
    theirs = by_peft(model, **ALL)
    mine = loaded(model, saved(theirs, tmp_path / "a"), is_trainable=True)
    with torch.autocast("cpu", torch.bfloat16):
        here, there = output(mine, {"input_ids": IDS}), output(theirs, {"input_ids": IDS})
        assert here.dtype == there.dtype
        mine(input_ids=IDS, labels=IDS).loss.backward()
    assert off(here, there) < 2 * torch.finfo(torch.bfloat16).eps
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in mine.tinylora_v.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_model_computes(dtype: torch.dtype) -> None:
    mine = ours(built("qwen2"), **ALL)
    before = output(mine, {"input_ids": IDS})
    converted = mine.half() if dtype == torch.float16 else mine.to(dtype)
    assert {p.dtype for p in converted.parameters()} == {dtype}
    assert {b.dtype for name, b in converted.named_buffers() if "tinylora" in name} == {dtype}
    after = output(converted, {"input_ids": IDS})
    assert after.dtype == dtype
    assert off(after, before) < 20 * max(torch.finfo(dtype).eps, 1e-6)


def test_copies_are_their_own() -> None:
    mine = ours(built("qwen2"), **ALL)
    inputs = {"input_ids": IDS}
    before = output(mine, inputs)
    other = copy.deepcopy(mine)
    with torch.no_grad():
        for v in other.tinylora_v.parameters():
            v.mul_(3)
    assert torch.equal(output(mine, inputs), before)
    assert not torch.equal(output(other, inputs), before)
    mine.merge_adapter()
    merged = copy.deepcopy(mine)
    merged.unmerge_adapter()
    assert torch.equal(output(merged, inputs), before)
    with other.disable_adapter():
        assert not torch.equal(output(merged, inputs), output(other, inputs))


def test_state_dicts_and_models_pickle() -> None:
    mine = ours(built("mlp-4"), **CASES["mlp-4"].config)
    inputs = CASES["mlp-4"].inputs
    state = pickle.loads(pickle.dumps(mine.state_dict()))
    other = ours(built("mlp-4"), **{**CASES["mlp-4"].config, "projection_seed": 5})
    assert not torch.equal(output(other, inputs), output(mine, inputs))
    other.load_state_dict(state)
    assert torch.equal(output(other, inputs), output(mine, inputs))
    stream = io.BytesIO()
    torch.save(mine, stream)
    stream.seek(0)
    assert torch.equal(output(torch.load(stream, weights_only=False), inputs), output(mine, inputs))


def test_the_state_dict_s_keys_are_peft_s() -> None:
    """Of its tuner, but for the v that PEFT names once more in every layer."""
    mine, theirs = (make(built("gpt2"), **CASES["gpt2"].config) for make in (ours, by_peft))
    there = {key for key in theirs.base_model.state_dict() if ".tinylora_v." not in key}
    assert set(mine.state_dict()) == there


def test_a_model_without_weights_gets_them_later(tmp_path: Path) -> None:
    real = ours(built("qwen2"), **ALL)
    with torch.device("meta"):
        empty = built("qwen2")
    mine = TinyLoraModel(empty, TinyLoraConfig(**{"r": 2, **ALL}))
    assert all(p.is_meta for name, p in mine.named_parameters() if "tinylora" not in name)
    missing = mine.load_state_dict(real.state_dict(), assign=True)
    assert not missing.missing_keys
    real.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = built("qwen2")
    loaded_empty = TinyLoraModel.from_pretrained(empty, tmp_path)
    assert not any(b.is_meta for name, b in loaded_empty.named_buffers() if "tinylora" in name)
    for name, layer in ((one.name, one) for one in loaded_empty._wrapped):
        assert torch.equal(layer.tinylora_A["default"], real.get_submodule(f"model.{name}").tinylora_A["default"])  # type: ignore[union-attr,index]


def test_it_runs_in_inference_mode_and_trains_after_it() -> None:
    mine = ours(built("qwen2"), **ALL)
    plain = gradients(mine)
    with torch.inference_mode():
        mine(input_ids=IDS)
        mine.generate(IDS, max_new_tokens=2, do_sample=False, pad_token_id=0)
    same(gradients(mine), plain)


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(kind: str, tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "live_processes.py"), kind, str(rank), str(port), str(tmp_path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [one.communicate(timeout=300)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    alone, start = in_one_process(), model_of().adapter_state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True)
        assert set(found) == set(alone)
        for key, tensor in alone.items():
            assert off(found[key], tensor) < 1e-5
    assert not torch.equal(alone["base_model.tinylora_v.0"], start["base_model.tinylora_v.0"])
