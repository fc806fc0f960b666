"""Modules that an adapter trains whole: a copy for each adapter, the base's own for none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, built, loaded, off, ours, output

from tinylora_tools import MismatchError
from tinylora_tools.nn import TinyLoraConfig

WHOLE: dict[str, Any] = {"target_modules": ("lin0",), "modules_to_save": ("lin1",)}


def test_each_adapter_has_a_copy_of_its_own(tmp_path: Path) -> None:
    model, inputs = built("mlp-5"), CASES["mlp-5"].inputs
    mine = ours(model, **WHOLE)
    mine.add_adapter("b", TinyLoraConfig(**WHOLE))
    with torch.no_grad():
        mine.get_submodule("model.lin1.modules_to_save.default").weight.mul_(2)  # type: ignore[union-attr]
    changed = output(mine, inputs)
    mine.set_adapter("b")
    assert torch.equal(output(mine, inputs), output(model, inputs))  # v is zero, and the copy as it was
    with pytest.raises(MismatchError, match="each have a lin1 of their own"):
        mine.set_adapter(["default", "b"])
    mine.set_adapter("default")
    mixed = output(mine, inputs, adapter_names=["b", "default"])
    assert off(mixed[0], output(model, inputs)[0]) < 1e-6
    assert off(mixed[1], changed[1]) < 1e-6
    mine.save_pretrained(tmp_path, selected_adapters=["default"])
    assert torch.equal(output(loaded(model, tmp_path), inputs), changed)
    mine.delete_adapter("default")
    assert torch.equal(output(mine, inputs), output(model, inputs))


def test_only_the_active_copy_is_trained() -> None:
    mine = ours(built("mlp-5"), **WHOLE)
    mine.add_adapter("b", TinyLoraConfig(**WHOLE))
    trained = {name for name, p in mine.named_parameters() if p.requires_grad}
    assert trained == {
        "model.lin1.modules_to_save.default.weight",
        "model.lin1.modules_to_save.default.bias",
        "tinylora_v.default.0",
    }


def test_it_passes_on_what_the_copy_has() -> None:
    mine = ours(built("mlp-5"), **WHOLE)
    lin1: Any = mine.model.lin1  # type: ignore[union-attr]
    assert lin1.weight is lin1.modules_to_save["default"].weight
    with mine.disable_adapter():
        assert lin1.weight is lin1.original_module.weight
    with pytest.raises(AttributeError):
        lin1.nothing  # noqa: B018


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(MismatchError, match="modules_to_save names 'lin9'"):
        ours(built("mlp-5"), target_modules=["lin0"], modules_to_save=["lin9"])
