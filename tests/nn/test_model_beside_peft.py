"""Every configuration of PEFT's own tests: the same logits, files and merges as real PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, built, by_peft, loaded, loaded_by_peft, off, ours, output, quietly, saved
from safetensors.torch import load_file

#: What float32 sums in another order come to.
_CLOSE = 1e-6
_ALL = pytest.mark.parametrize("name", CASES)


def config_of(directory: Path) -> dict[str, Any]:
    found = json.loads((directory / "adapter_config.json").read_text())
    wanted = found["target_modules"]
    for name in ("layers_to_transform", "layers_pattern"):  # one value is a list of one
        found[name] = found[name] if isinstance(found[name], list | None) else [found[name]]
    return {**found, "target_modules": set(wanted) if isinstance(wanted, list) else wanted}


@_ALL
def test_what_peft_saved_computes_alike(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    theirs = by_peft(model, **case.config)
    mine = loaded(model, saved(theirs, tmp_path / "a"))
    there, here, base = (output(one, case.inputs) for one in (theirs, mine, model))
    assert off(here, there) < _CLOSE
    assert off(here, base) > 1e-4, "the adapter changes nothing, so nothing was compared"


@_ALL
def test_it_is_saved_as_peft_saves_it(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    directory = saved(by_peft(model, **case.config), tmp_path / "a")
    loaded(model, directory).save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "adapter_model.safetensors").read_bytes() == (
        directory / "adapter_model.safetensors"
    ).read_bytes()
    assert config_of(tmp_path / "b") == config_of(directory)


@_ALL
def test_a_new_adapter_is_pefts(name: str, tmp_path: Path) -> None:
    """The same keys, shapes and dtypes, P bit for bit, A and B up to signs and rounding; and PEFT computes with it what
    we do."""
    case, model = CASES[name], built(name)
    directory = saved(by_peft(model, **case.config), tmp_path / "a")
    mine = ours(model, **case.config)
    mine.save_pretrained(tmp_path / "b")
    there, here = (load_file(one / "adapter_model.safetensors") for one in (directory, tmp_path / "b"))
    assert {key: (t.shape, t.dtype) for key, t in here.items()} == {key: (t.shape, t.dtype) for key, t in there.items()}
    for key, tensor in there.items():
        part = key.rpartition(".tinylora_")[2][:1]
        if part == "P":
            assert torch.equal(tensor, here[key])
        elif part in "AB" and ".tinylora_" in key:
            assert off(here[key].abs(), tensor.abs()) < 2e-4, key
    assert config_of(tmp_path / "b") == config_of(directory)
    peft_model = loaded_by_peft(model, tmp_path / "b")
    assert off(output(mine, case.inputs), output(peft_model, case.inputs)) < _CLOSE
    assert off(output(mine, case.inputs), output(model, case.inputs)) > 1e-4


@_ALL
def test_merging_is_pefts_and_undone_bit_for_bit(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    theirs = by_peft(model, **case.config)
    mine = loaded(model, saved(theirs, tmp_path / "a"))
    before = {key: tensor.clone() for key, tensor in mine.state_dict().items()}
    beside = output(mine, case.inputs)
    mine.merge_adapter(safe_merge=True)
    assert off(output(mine, case.inputs), beside) < 1e-5
    with quietly():
        theirs.merge_adapter()
    there = theirs.base_model.state_dict()
    for key, tensor in mine.state_dict().items():
        if key.endswith("base_layer.weight"):
            assert off(tensor, there[key]) < 1e-6
            assert not torch.equal(tensor, before[key])
    mine.unmerge_adapter()
    after = mine.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    bare = mine.merge_and_unload()
    assert [key for key, _ in bare.named_parameters()] == [key for key, _ in model.named_parameters()]
    assert off(output(bare, case.inputs), beside) < 1e-5


@_ALL
def test_disabled_and_unloaded_it_is_the_base(name: str) -> None:
    case, model = CASES[name], built(name)
    base, mine = output(model, case.inputs), ours(model, **case.config)
    changed = output(mine, case.inputs)
    with mine.disable_adapter():
        assert torch.equal(output(mine, case.inputs), base)
    assert torch.equal(output(mine, case.inputs), changed)
    bare = mine.unload()
    assert torch.equal(output(bare, case.inputs), base)
    assert {key: id(type(one)) for key, one in bare.named_modules()} == {
        key: id(type(one)) for key, one in model.named_modules()
    }


@_ALL
def test_gradients_are_pefts(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    theirs = by_peft(model, **case.config)
    mine = loaded(model, saved(theirs, tmp_path / "a"), is_trainable=True)
    for one in (theirs, mine):
        with quietly():
            found = one(**case.inputs)
        first = found if isinstance(found, torch.Tensor) else getattr(found, "logits", None)
        result = (found[0] if first is None else first).double().flatten()
        (result * torch.linspace(-1, 1, len(result), dtype=torch.float64)).sum().backward()
    there = {k: p for k, p in theirs.base_model.named_parameters() if p.grad is not None and ".tinylora_v." not in k}
    vectors = dict(theirs.base_model.tinylora_v["default"].items())
    assert set(vectors) == set(mine.tinylora_v["default"].keys())  # type: ignore[operator]
    for group, v in vectors.items():
        own: Any = mine.tinylora_v["default"]
        assert off(own[group].grad, v.grad) < 1e-4
    here = {k: p for k, p in mine.named_parameters() if p.grad is not None and not k.startswith("tinylora_v.")}
    assert set(here) == set(there)
    assert mine.get_nb_trainable_parameters()[0] == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("name", ["mlp-4", "embedding", "conv1d", "gpt2", "qwen2", "gemma3", "t5", "bert-cls"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_bases_within_a_rounding(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    case, model = CASES[name], built(name, dtype)
    theirs = by_peft(model, **case.config)
    directory = saved(theirs, tmp_path / "a")
    mine = loaded(model, directory)
    there, here = output(theirs, case.inputs), output(mine, case.inputs)
    assert here.dtype == there.dtype
    assert float((here.double() - there.double()).abs().max()) <= torch.finfo(dtype).eps * float(there.abs().max())
    mine.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "adapter_model.safetensors").read_bytes() == (
        directory / "adapter_model.safetensors"
    ).read_bytes()
    new = ours(model, **case.config).adapter_state_dict()
    for key, tensor in load_file(directory / "adapter_model.safetensors").items():
        if key.endswith("tinylora_P"):
            assert torch.equal(new[key], tensor)


@pytest.mark.parametrize("name", ["mlp-4", "embedding", "qwen2", "gpt2"])
def test_without_p_in_the_file(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    config = {**case.config, "save_projection": False}
    with quietly():
        theirs = by_peft(model, **config)
    directory = saved(theirs, tmp_path / "a")
    mine = loaded(model, directory)
    assert off(output(mine, case.inputs), output(theirs, case.inputs)) < _CLOSE
    mine.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "adapter_model.safetensors").read_bytes() == (
        directory / "adapter_model.safetensors"
    ).read_bytes()
    assert not any("tinylora_P" in key for key in mine.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"target_modules": r".*layers\.[01]\.mlp\.(up|down)_proj", "weight_tying": 0.3},
        {"target_modules": "all-linear", "weight_tying": 0.45, "r": 5, "projection_seed": -3},
        {"target_modules": ["o_proj"], "fan_in_fan_out": True},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "modules_to_save": ["norm"]},
        {"target_modules": ["k_proj"], "r": 40, "u": 1},
        {"target_modules": ["q_proj", "k_proj"], "bias": "tinylora_only", "save_projection": False},
    ],
)
def test_other_settings_are_pefts(settings: dict[str, Any], tmp_path: Path) -> None:
    model, inputs = built("qwen2"), CASES["qwen2"].inputs
    given = {"r": 2, "u": 4, **settings}
    theirs = by_peft(model, **given)
    directory = saved(theirs, tmp_path / "a")
    mine, new = loaded(model, directory), ours(model, **given)
    assert off(output(mine, inputs), output(theirs, inputs)) < 2 * _CLOSE
    new.save_pretrained(tmp_path / "b")
    there, here = (load_file(one / "adapter_model.safetensors") for one in (directory, tmp_path / "b"))
    assert {key: t.shape for key, t in here.items()} == {key: t.shape for key, t in there.items()}
    assert config_of(tmp_path / "b") == config_of(directory)
    assert new.targeted_module_names == theirs.targeted_module_names


def test_dropout_draws_what_pefts_draws(tmp_path: Path) -> None:
    model, inputs = built("qwen2"), CASES["qwen2"].inputs
    theirs = by_peft(model, target_modules=["q_proj", "embed_tokens"], u=4, tinylora_dropout=0.4)
    mine = loaded(model, saved(theirs, tmp_path / "a"))
    found = []
    for one in (mine.train(), theirs.train()):
        torch.manual_seed(3)
        found.append(output(one, inputs))
    assert off(*found) < _CLOSE
    assert off(output(mine.eval(), inputs), found[0]) > 1e-4
