"""Names of adapters: those that are parts of paths lose nothing, those that can't be names are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, built, loaded_by_peft, off, ours, output

from tinylora_tools import UnsupportedError
from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel
from tinylora_tools.nn.shared import Buffers, check_name


@pytest.mark.parametrize("name", ["0", "1", "q_proj", "self_attn", "model", "layers", "weight", "tinylora_A"])
def test_names_that_are_parts_of_paths_lose_nothing(name: str, tmp_path: Path) -> None:
    model, case = built("qwen2"), CASES["qwen2"]
    mine = ours(model, name, **case.config)
    mine.add_adapter("other", TinyLoraConfig(**case.config))
    mine.save_pretrained(tmp_path, selected_adapters=[name])
    again = TinyLoraModel.from_pretrained(built("qwen2"), tmp_path / name)
    assert torch.equal(output(again, case.inputs), output(mine, case.inputs))
    theirs = loaded_by_peft(model, tmp_path / name)
    assert off(output(theirs, case.inputs), output(mine, case.inputs)) < 1e-6


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "forward", "keys", "train", "training", "__base__", 3])
def test_what_cannot_be_a_name_is_refused(name: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        TinyLoraModel(built("mlp-1"), TinyLoraConfig(target_modules="lin0"), name)
    assert caught.value.hint
    with pytest.raises(UnsupportedError, match="already"):
        check_name("a", ["a"])


def test_buffers_go_with_their_module() -> None:
    buffers = Buffers()
    buffers.put("a", torch.ones(2))
    buffers.put("b", torch.ones(2), persistent=False)
    assert list(buffers.state_dict()) == ["a"]
    assert "b" in buffers
    assert buffers.half()["b"].dtype == torch.float16
    buffers.drop("a")
    assert "a" not in buffers
