"""What adapters bring: new ones as PEFT and `init` make them, files of every form, and what doesn't belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_projects
import ml_dtypes
import numpy as np
import pytest
import recipe
import torch
from fixture_data import ROOT, fixture, tensors
from live_models import CASES, built, by_peft, loaded, off, ours, output, quietly, saved
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tinylora_tools as tl
from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel
from tinylora_tools.nn.merging import update

#: What PEFT's merges of fixtures hold otherwise: a tied weight that it changes for both, biases that it didn't save.
LEFT_OUT = {
    "peft020-bert-bias": (".bias",),
    "peft020-gpt2": ("wte.weight", "lm_head.weight"),
    "peft021-both-tied": ("wte.weight", "lm_head.weight"),
    "peft021-lm-head": ("embed_tokens.weight", "lm_head.weight"),
}

THIRTEEN = fixture("peft021-13-numbers")


def base_of(directory: Path, dtype: torch.dtype | None = None) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype or "auto")
    return model.eval()


def test_it_makes_what_init_makes(tmp_path: Path) -> None:
    """Bit for bit: A, B, P, v."""
    config = TinyLoraConfig(r=2, u=13, weight_tying=0.5, target_modules="all-linear", init_weights="uniform")
    tl.init(THIRTEEN.base, tmp_path / "init", config, init_seed=4)
    mine = TinyLoraModel(base_of(THIRTEEN.base), config, init_seed=4)
    mine.save_pretrained(tmp_path / "mine")
    there, here = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("init", "mine"))
    assert set(here) == set(there)
    assert all(torch.equal(here[key], tensor) for key, tensor in there.items())


def test_packed_adapters_load(tmp_path: Path) -> None:
    tl.pack(THIRTEEN.adapter, tmp_path / "packed.safetensors", base=THIRTEEN.base)
    ids = torch.arange(12).reshape(2, 6)
    plain = TinyLoraModel.from_pretrained(base_of(THIRTEEN.base), THIRTEEN.adapter)
    packed = TinyLoraModel.from_pretrained(base_of(THIRTEEN.base), tmp_path / "packed.safetensors", base=THIRTEEN.base)
    assert off(output(packed, {"input_ids": ids}), output(plain, {"input_ids": ids})) < 1e-2
    unaided = TinyLoraModel.from_pretrained(base_of(THIRTEEN.base), tmp_path / "packed.safetensors")
    assert torch.equal(output(unaided, {"input_ids": ids}), output(packed, {"input_ids": ids}))


def test_open_adapters_load() -> None:
    opened = tl.load_adapter(THIRTEEN.adapter)
    mine = TinyLoraModel.from_pretrained(base_of(THIRTEEN.base), opened)
    name = opened.order[5]
    layer = mine.get_submodule(f"model.{name}")
    assert np.array_equal(layer.tinylora_P["default"].numpy(), opened.projection(name))  # type: ignore[union-attr,index]
    assert set(mine.notes["default"]) == set(opened.notes)


def test_a_16_bit_base_s_p_is_what_it_trained_with_in_float32_too(tmp_path: Path) -> None:
    """PEFT draws it unrounded there; the merge of the files is the judge."""
    model = built("qwen2", torch.bfloat16)
    config = {**CASES["qwen2"].config, "save_projection": False}
    directory = saved(by_peft(model, **config), tmp_path / "a")
    here, wide = loaded(model, directory), loaded(built("qwen2", torch.bfloat16).float(), directory)
    for layer, other in zip(here._wrapped, wide._wrapped, strict=True):
        assert torch.equal(layer.tinylora_P["default"], other.tinylora_P["default"])
        rounded = layer.tinylora_P["default"].bfloat16().float()
        assert torch.equal(rounded, layer.tinylora_P["default"])


@pytest.mark.parametrize(
    "name",
    [d.name for d in sorted(ROOT.iterdir()) if (d / "live.json").is_file() and "peft019" not in d.name],
)
def test_every_fixture_loads_as_it_merges(name: str, tmp_path: Path) -> None:
    """What PEFT's releases wrote, loaded into a live base and merged there, beside PEFT's own merge."""
    case = fixture(name)
    if name in ("peft021-moe", "peft021-named", "peft020-second"):
        pytest.skip("the model that PEFT adapted has other names, or another adapter's numbers")
    model = recipe.load_base(recipe.BASES[case.facts["base"]], case.base).eval()
    mine = TinyLoraModel.from_pretrained(model, case.adapter, base=case.base)
    merged: Any = mine.merge_and_unload()
    with quietly():
        merged.save_pretrained(tmp_path)
    here, there = tensors(tmp_path), tensors(case.merged)
    left_out = LEFT_OUT.get(name, ("no such key",))
    compared = [key for key in there if key in here and not key.endswith(left_out)]
    assert len(compared) > len(there) / 2
    for key in compared:
        one, other = here[key].astype(np.float64), there[key].astype(np.float64)
        eps = float(ml_dtypes.finfo(there[key].dtype).eps)
        assert float(np.abs(one - other).max()) <= 2 * eps * float(np.abs(other).max()), key


@pytest.mark.parametrize("other", ["other weights", "other shape", "other names"])
def test_an_adapter_of_another_model_is_refused(other: str, tmp_path: Path) -> None:
    directory = saved(by_peft(built("mlp-4"), **CASES["mlp-4"].config), tmp_path / "a")
    model = built("mlp-4")
    if other == "other weights":
        torch.nn.init.normal_(model.lin0.weight)  # type: ignore[arg-type,union-attr]
        says = "aren't this weight's"
    elif other == "other shape":
        model.lin0 = torch.nn.Linear(12, 20)
        says = "a weight of shape"
    else:
        model.lin9 = model.lin0
        del model.lin0
        says = "called lin0"
    with pytest.raises(tl.MismatchError, match=says) as caught:
        TinyLoraModel.from_pretrained(model, directory)
    assert caught.value.hint
    if other == "other weights":
        assert TinyLoraModel.from_pretrained(model, directory, check_base=False).active_adapters == ["default"]


def test_a_moved_weight_is_noted(tmp_path: Path) -> None:
    model = built("mlp-4")
    directory = saved(by_peft(model, **CASES["mlp-4"].config), tmp_path / "a")
    with torch.no_grad():
        model.lin0.weight.add_(0.01 * torch.randn_like(model.lin0.weight))  # type: ignore[union-attr,operator,arg-type]
    mine = TinyLoraModel.from_pretrained(model, directory)
    assert any("has moved" in note for note in mine.notes["default"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 0}, "r=0"),
        ({"u": 0}, "u=0"),
        ({"u": -1}, "u=-1"),
        ({"r": 2.5}, "r is 2.5"),
        ({"weight_tying": 1.5}, "weight_tying is 1.5"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"init_weights": "x"}, "init_weights is 'x'"),
        ({"layers_pattern": "h"}, "layers_pattern is given without"),
        ({"tinylora_dropout": 2}, "tinylora_dropout is 2"),
        ({"projection_seed": 2**64}, "projection_seed"),
        ({"u": 10**12}, "would take"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(tl.TinyLoraError, match=says):
        TinyLoraModel(built("mlp-1"), TinyLoraConfig(**{"target_modules": "lin0", **settings}))  # type: ignore[arg-type]


def test_a_weight_that_is_not_finite_is_refused_and_nothing_is_replaced() -> None:
    model = built("mlp-4")
    with torch.no_grad():
        model.lin1.weight[0, 0] = float("nan")  # type: ignore[union-attr,index]
    with pytest.raises(tl.FormatError, match="NaN or infinite") as caught:
        ours(model, target_modules=["lin0", "lin1"])
    assert caught.value.where == "lin1"


def test_nan_in_a_file_s_v_is_refused(tmp_path: Path) -> None:
    directory = saved(by_peft(built("mlp-1"), **CASES["mlp-1"].config), tmp_path / "a")
    stored = load_file(directory / "adapter_model.safetensors")
    stored["base_model.tinylora_v.0"][0] = float("nan")
    save_file(stored, directory / "adapter_model.safetensors")
    with pytest.raises(tl.MismatchError):
        TinyLoraModel.from_pretrained(built("mlp-1"), directory)


def test_other_projects_adapters_load(tmp_path: Path) -> None:
    """The updates that the project's own formula gives."""
    updates = foreign_projects.make_curiouscaliboi(THIRTEEN.base, tmp_path / "source")
    mine = TinyLoraModel.from_pretrained(base_of(THIRTEEN.base), tmp_path / "source", settings={})
    compared = 0
    for layer in mine._wrapped:
        found, expected = update(layer, "default").double(), torch.as_tensor(np.asarray(updates[layer.name])).double()
        assert off(found, expected) < 1e-3 or not expected.any()
        compared += bool(expected.any())
    assert compared > 10
