"""Adapters that PEFT saved, sorted into what they are; and files whose parts can't be an adapter's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixture_data import FIXTURES, Fixture, fixture
from safetensors.torch import load_file, save_file
from small_model import TARGETS, adapted, saved, saved_lora
from torch import Tensor

from tinylora_tools.errors import FormatError, UnsupportedError
from tinylora_tools.formats.peft.adapter import find_adapter, read_adapter

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_parts_of_every_release_are_what_the_live_modules_held(case: Fixture) -> None:
    adapter = read_adapter(case.adapter)
    assert adapter.modules.keys() == case.modules_by_name.keys()
    assert not adapter.unknown
    assert adapter.has_config
    assert adapter.config.peft_version == case.facts["peft"]
    for name, parts in adapter.modules.items():
        live = {part: case.live[f"{name}.{part}"] for part in "ABPv"}
        for part, array in zip("AB", adapter.factors(name), strict=True):
            assert np.array_equal(array.astype(live[part].dtype), live[part])
        assert (parts.rank, parts.in_features) == live["A"].shape
        assert (parts.out_features, parts.rank) == live["B"].shape
        P = adapter.stored_projection(name)
        assert (P is None) == (not adapter.has_projections) == (not adapter.config.save_projection)
        assert P is None or np.array_equal(P.astype(live["P"].dtype), live["P"])
        group = case.modules_by_name[name]["group"]
        if case.name != "peft019-two":  # numbered by another adapter's modules
            assert np.array_equal(adapter.vector(group).astype(live["v"].dtype), live["v"])


@pytest.mark.parametrize(("bias", "saved_too"), [("none", ()), ("tinylora_only", ()), ("all", ("norm.bias",))])
def test_parameters_of_the_base_are_told_from_copies_of_them(
    tmp_path: Path, bias: str, saved_too: tuple[str, ...]
) -> None:
    """A bias is the model's own; what modules_to_save lists is a copy, and stored again by bias="all"."""
    adapter = read_adapter(saved(tmp_path, bias=bias, modules_to_save=["head"]))
    own = {"layer.0.bias", "layer.1.bias", *saved_too} if bias != "none" else set()
    found = {name: replacement.in_place for name, replacement in adapter.replaced.items()}
    assert found == {**dict.fromkeys(own, True), "head.weight": False, "head.bias": False}
    assert len(adapter.copies) == (2 if bias == "all" else 0)
    assert all(".head." in key for key in adapter.copies)
    assert not adapter.unknown


def test_another_adapter_that_was_saved_along_is_kept_apart() -> None:
    adapter = read_adapter(fixture("peft019-two").adapter)
    assert list(adapter.leaked) == ["default"]
    keys = adapter.leaked_keys
    assert keys == {key for key in adapter.file.tensors if key.endswith(".default")}
    assert all(
        key.startswith(f"base_model.model.{name}.") for name, of in adapter.leaked["default"].items() for key in of
    )
    memory = adapter.in_memory()
    assert memory.file.tensors.keys() == adapter.file.tensors.keys() - keys


def test_in_memory_it_outlives_its_file(tmp_path: Path) -> None:
    adapter = read_adapter(saved(tmp_path / "a"))
    memory = adapter.in_memory()
    state = load_file(tmp_path / "a" / WEIGHTS)
    shutil.rmtree(tmp_path / "a")
    for name in TARGETS:
        assert np.array_equal(memory.factors(name).A, state[f"base_model.model.{name}.tinylora_A"].numpy())
    assert np.array_equal(memory.vector(1), state["base_model.tinylora_v.1"].numpy())


def test_a_file_alone_tells_its_sizes(tmp_path: Path) -> None:
    saved(tmp_path, u=5, weight_tying=0.5)
    (tmp_path / "adapter_config.json").unlink()
    adapter = read_adapter(tmp_path / WEIGHTS)
    assert not adapter.has_config
    assert adapter.directory == tmp_path
    assert (adapter.config.r, adapter.config.u, adapter.config.save_projection) == (2, 5, True)
    assert adapter.config.weight_tying == pytest.approx(1 - len(adapter.vectors) / 3)


def test_the_directory_or_its_only_sub_directory(tmp_path: Path) -> None:
    model = adapted()
    assert find_adapter(tmp_path) is None
    model.save_pretrained(tmp_path / "one")
    assert find_adapter(tmp_path) == tmp_path / "one"
    assert read_adapter(tmp_path).file.path == tmp_path / "one" / WEIGHTS
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with pytest.raises(FormatError, match="holds 2 adapters: one, two") as caught:
        find_adapter(tmp_path)
    assert caught.value.hint == "Name the one that you mean."
    shutil.copy(tmp_path / "one" / WEIGHTS, tmp_path)
    assert find_adapter(tmp_path) == tmp_path


def test_a_pickle_reads_as_the_file_does(tmp_path: Path) -> None:
    saved(tmp_path)
    expected = {name: tensor.numpy() for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "adapter_model.bin")
    (tmp_path / WEIGHTS).unlink()
    adapter = read_adapter(tmp_path)
    assert adapter.file.tensors.keys() == expected.keys()
    assert np.array_equal(adapter.factors("embed").B, expected["base_model.model.embed.tinylora_B"])


Change = Callable[[dict[str, Tensor]], object]
A, B, P = (f"base_model.model.layer.0.tinylora_{part}" for part in "ABP")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(A), "layer.0: tinylora_A missing"),
        (lambda state: (state.pop(A), state.pop(B)), "layer.0: tinylora_A and tinylora_B missing"),
        (lambda state: state.update({A: torch.zeros(4)}), "layer.0: A is (4,) and B is (6, 2), expected (r, in)"),
        (lambda state: state.update({A: torch.zeros(3, 4)}), "layer.0: A is (3, 4) and B is (6, 2)"),
        (lambda state: state.update({A: torch.zeros(0, 4), B: torch.zeros(6, 0)}), "layer.0: A is (0, 4)"),
        (lambda state: state.update({P: torch.zeros(3, 2)}), "layer.0: P is (3, 2) but A says r=2, expected (u, 2, 2)"),
        (lambda state: state.update({P: torch.zeros(3, 2, 3)}), "layer.0: P is (3, 2, 3) but A says r=2"),
        (lambda state: state.update({"x" * 1001: torch.zeros(1)}), "a tensor's name has 1001 characters"),
    ],
)
def test_parts_that_cannot_be_an_adapter_s(tmp_path: Path, change: Change, message: str) -> None:
    saved(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    change(state)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(FormatError) as caught:
        read_adapter(tmp_path)
    assert message in caught.value.what
    assert caught.value.where == str(tmp_path / WEIGHTS)


def test_keys_that_no_release_writes_are_listed(tmp_path: Path) -> None:
    saved(tmp_path)
    save_file(load_file(tmp_path / WEIGHTS) | {"note": torch.zeros(1)}, tmp_path / WEIGHTS)
    assert read_adapter(tmp_path).unknown == ("note",)


def test_other_adapters_and_none(tmp_path: Path) -> None:
    saved_lora(tmp_path / "lora")
    with pytest.raises(UnsupportedError, match="peft_type is 'LORA'"):
        read_adapter(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").unlink()
    with pytest.raises(UnsupportedError, match="a LoRA adapter, not a TinyLoRA adapter"):
        read_adapter(tmp_path / "lora")
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedError, match="none of its 1 tensors is a TinyLoRA adapter's"):
        read_adapter(tmp_path / "x.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"no adapter here: neither adapter_model\.safetensors nor adapter_m"):
        read_adapter(tmp_path / "empty")
    config = {"peft_type": "TINYLORA"}
    (tmp_path / "empty" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="no adapter here"):
        read_adapter(tmp_path / "empty")
