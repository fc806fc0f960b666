"""Modules that PEFT left out of a file, computed again: against the file that it saved while it was whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
from edited_files import WEIGHTS, Tensors, edited_copy
from fixture_data import ROOT, fixture
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from tinylora_tools.adapters.completion import completed
from tinylora_tools.adapters.load import Adapter
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.formats.peft.adapter import read_adapter

QWEN2 = ROOT / "bases" / "qwen2-bf16"


def opened(path: Path, base: Path = QWEN2) -> Adapter:
    return Adapter(read_adapter(path), base=Base(base))


def saved(directory: Path, other: str, **settings: Any) -> tuple[Path, Path]:
    """An adapter as PEFT saves it alone, and beside another one."""
    config = {"r": 2, "u": 3, "target_modules": ["q_proj", "o_proj"], "init_weights": "uniform", **settings}
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(QWEN2), peft.TinyLoraConfig(**config))
    model.save_pretrained(directory / "whole")
    model.add_adapter(other, peft.TinyLoraConfig(**{**config, "bias": "none"}))
    model.save_pretrained(directory / "beside", selected_adapters=["default"])
    return directory / "whole", directory / "beside"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{}, {"save_projection": False}, {"weight_tying": 0.5}], ids=str)
def test_what_peft_left_out_comes_back_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, beside = saved(tmp_path, "q_proj", **settings)
    before, after = opened(whole), completed(opened(beside))
    assert len(opened(beside).modules) == len(before.modules) // 2
    tensors = load_file(whole / WEIGHTS)
    assert after.header.file.tensors.keys() == tensors.keys()
    for name, values in tensors.items():
        assert after.header.file.read(name).tobytes() == values.tobytes(), name
    assert after.groups == before.groups
    assert "weren't in the file" in after.notes[0]
    assert completed(before) is before


@pytest.mark.filterwarnings("ignore")
def test_what_was_trained_does_not_come_back(tmp_path: Path) -> None:
    """With an adapter called "0", the vector of group 0 is left out too; and biases of modules."""
    _, beside = saved(tmp_path, "0")
    with pytest.raises(MismatchError, match="the trained vector of group 0 isn't in the file: it can't be computed"):
        completed(opened(beside))
    _, biased = saved(tmp_path / "b", "q_proj", bias="tinylora_only")
    with pytest.raises(MismatchError, match="biases were trained along, and those of the missing modules aren't"):
        completed(opened(biased))


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_vectors_alone_tells_no_signs(tmp_path: Path) -> None:
    _, beside = saved(tmp_path, "model")
    assert not opened(beside).modules
    with pytest.raises(UndeterminedError, match="the file holds no module at all that would tell which signs"):
        completed(opened(beside))


def without(end: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if f".{end}.tinylora" in key]:
            del tensors[key]

    return change


def turned(tensors: Tensors) -> None:
    """As a library that chooses another sign leaves it."""
    without("o_proj")(tensors)
    key = "base_model.model.model.layers.4.self_attn.q_proj.tinylora_"
    tensors[f"{key}A"][1] *= -1
    tensors[f"{key}B"][:, 1] *= -1


@pytest.mark.filterwarnings("ignore")
def test_signs_that_this_machine_does_not_choose_are_no_basis(tmp_path: Path) -> None:
    whole, _ = saved(tmp_path, "other")
    with pytest.raises(UndeterminedError, match="this machine's library turns the signs of the file's factors"):
        completed(opened(edited_copy(whole, tmp_path / "turned", turned)))
    moved = tmp_path / "moved"
    shutil.copytree(fixture("peft021-layers").base, moved)
    tensors = load_file(moved / "model.safetensors")
    save_file({name: values[::-1].copy() for name, values in tensors.items()}, moved / "model.safetensors")
    with pytest.raises(MismatchError, match="the factors in the file aren't those of the base's weight"):
        completed(opened(edited_copy(whole, tmp_path / "a", without("q_proj")), moved))


@pytest.mark.filterwarnings("ignore")
def test_p_of_an_unknown_seed_are_not_drawn(tmp_path: Path) -> None:
    whole, _ = saved(tmp_path, "other")
    adapter = edited_copy(whole, tmp_path / "a", without("q_proj"), projection_seed=7)
    with pytest.raises(UndeterminedError, match="what drew the stored P isn't known"):
        completed(opened(adapter))
    shared = fixture("peft019-shared")
    alike = edited_copy(shared.name, tmp_path / "b", without("q_proj"))
    live = completed(opened(alike, shared.base))
    name = next(name for name in shared.modules_by_name if name.endswith("q_proj"))
    assert live.projection(name).tobytes() == shared.live[f"{name}.P"].astype("float32").tobytes()


def test_without_a_base_nothing_is_known(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    adapter = edited_copy(case.name, tmp_path / "a", base_model_name_or_path=None, auto_mapping=None)
    with pytest.raises(UndeterminedError, match="nothing tells what the configuration targets"):
        completed(Adapter(read_adapter(adapter)))
