"""Keys against those that PEFT saves."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_data import FIXTURES, Fixture, tensors
from safetensors.torch import load_file
from small_model import TARGETS, saved, saved_lora

from tinylora_tools.formats.peft.keys import (
    COPY,
    FACTOR,
    REPLACED,
    VECTOR,
    base_key,
    factor_key,
    is_adapter,
    plain_keys,
    vector_key,
)


@pytest.mark.parametrize("save_projection", [True, False])
def test_keys_are_peft_s(tmp_path: Path, save_projection: bool, recwarn: pytest.WarningsRecorder) -> None:
    saved(tmp_path, bias="all", modules_to_save=["head"], save_projection=save_projection)
    keys = load_file(tmp_path / "adapter_model.safetensors").keys()
    parts = "ABP" if save_projection else "AB"
    own = {factor_key(name, part) for name in TARGETS for part in parts} | {vector_key(i) for i in range(3)}
    whole = {
        base_key("layer.0", "bias", wrapped=True), base_key("layer.1", "bias", wrapped=True),
        base_key("norm", "bias", wrapped=False), base_key("head", "bias", wrapped=False),
        base_key("head", "weight", wrapped=False),
    }  # fmt: skip
    copies = {key for key in keys if COPY.search(key)}
    assert keys == own | whole | copies
    assert len(copies) == 2
    for key in keys:
        assert (FACTOR.fullmatch(key) is not None) == (key in own and "_v." not in key)
        assert (VECTOR.fullmatch(key) is not None) == ("_v." in key)
        assert key in own or REPLACED.fullmatch(key)


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_every_release_s_keys_are_taken_apart_and_put_together(case: Fixture) -> None:
    path = next(case.adapter.glob("adapter_model.*"))
    for key in tensors(path):
        if match := FACTOR.fullmatch(key):
            again = factor_key(match["module"], match["part"])
            assert key == (again if match["adapter"] is None else f"{again}.{match['adapter']}")
            assert match["module"] in case.modules_by_name or match["adapter"]
        elif match := VECTOR.fullmatch(key):
            assert key == vector_key(int(match["group"]))
        else:
            assert REPLACED.fullmatch(key)


@pytest.mark.parametrize("key", ["00", "01", "-1", "", "1.0", "x", "1\n"])
def test_groups_are_plain_numbers(key: str) -> None:
    assert VECTOR.fullmatch(f"base_model.tinylora_v.{key}") is None


def test_a_parameter_of_the_model_itself_has_no_module() -> None:
    assert base_key("", "scale", wrapped=False) == "base_model.model.scale"


def test_other_files_are_no_adapters(tmp_path: Path) -> None:
    assert is_adapter(["something", "base_model.tinylora_v.0"])
    assert is_adapter(load_file(saved(tmp_path / "tiny") / "adapter_model.safetensors"))
    assert not is_adapter(load_file(saved_lora(tmp_path / "lora") / "adapter_model.safetensors"))
    assert not is_adapter(tensors(FIXTURES[0].base))
    assert not is_adapter([])


def test_keys_that_are_called_otherwise() -> None:
    keys = ["module.base_model.model.a.b.tinylora_A", "module.base_model.tinylora_v.0"]
    assert plain_keys(keys) == {key: key.removeprefix("module.") for key in keys}
    assert is_adapter(keys)
    assert is_adapter(["_orig_mod.base_model.model.a.b.tinylora_A"])
    assert plain_keys(["base_model.model.module.a.tinylora_A", "base_model.tinylora_v.0"]) == {
        "base_model.model.module.a.tinylora_A": "base_model.model.a.tinylora_A"
    }
    named = ["base_model.tinylora_v", "base_model.tinylora_v.0", "base_model.tinylora_v.2"]
    assert plain_keys(named) == {"base_model.tinylora_v": "base_model.tinylora_v.1"}
    assert plain_keys(named[:2]) == {"base_model.tinylora_v": "base_model.tinylora_v.1"}
    assert plain_keys(named[:1]) == {"base_model.tinylora_v": "base_model.tinylora_v.0"}
    assert plain_keys(named[1:]) == {}
