"""The modules of a live model: as in the base, whatever adapters have put around them."""

from __future__ import annotations

import pytest
import torch
from live_models import DeepMLP, built, ours
from torch import nn

from tinylora_tools import MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel
from tinylora_tools.nn.live import base_names, look_at, targets


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert-cls", "mlp-5"])
def test_names_are_the_base_s(name: str) -> None:
    model = built(name)
    before, live = [path for path, _ in base_names(model)], look_at(model)
    assert before == [path for path, _ in model.named_modules()]
    mine = ours(model, target_modules=["lin0"], modules_to_save=["lin1"]) if name == "mlp-5" else ours(model)
    assert [path for path, _ in base_names(mine.model)] == before
    after = look_at(mine.model)
    assert list(after.modules) == list(live.modules)
    assert {k: m.kind for k, m in after.modules.items()} == {k: m.kind for k, m in live.modules.items()}
    assert (after.input, after.output, after.model_type) == (live.input, live.output, live.model_type)
    assert after.others == live.others


def test_conv1d_is_seen() -> None:
    live = look_at(built("gpt2"))
    assert live.modules["transformer.h.0.attn.c_attn"].kind == "Conv1D"
    assert tuple(live.modules["transformer.h.0.attn.c_attn"].weight.shape) == (96, 32)
    assert (live.input, live.output, live.model_type) == ("transformer.wte", "lm_head", "gpt2")


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        (["nothing"], MismatchError, "no module matches nothing"),
        (["relu"], UnsupportedError, "no Linear, Conv1D or Embedding"),
        (None, UndeterminedError, "default targets"),
        ("lin(", Exception, "lin("),
    ],
)
def test_targets_that_do_not_do_are_refused(wanted: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says.replace("(", r"\(")):
        TinyLoraModel(built("mlp-1"), TinyLoraConfig(target_modules=wanted))  # type: ignore[arg-type]


def test_modules_whose_forward_is_passed_over_are_refused() -> None:
    attention = nn.Sequential(nn.MultiheadAttention(8, 2), nn.TransformerEncoderLayer(8, 2, 16))
    for wanted in ("0.out_proj", "1.linear1"):
        with pytest.raises(UnsupportedError, match="past its forward") as caught:
            targets(attention, TinyLoraConfig(target_modules=(wanted,)))
        assert caught.value.where == wanted


def test_weights_of_another_kind_are_refused() -> None:
    model = DeepMLP()
    model.lin1.weight = nn.Parameter(torch.zeros(10, 10, dtype=torch.int8), requires_grad=False)  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match="int8"):
        targets(model, TinyLoraConfig(target_modules=("lin1",)))


def test_a_module_that_is_trained_whole_is_not_adapted_beside_that() -> None:
    mine = ours(built("mlp-5"), target_modules=["lin0"], modules_to_save=["lin1"])
    with pytest.raises(UnsupportedError, match="trained whole by another adapter"):
        mine.add_adapter("b", TinyLoraConfig(target_modules=["lin1"]))  # type: ignore[arg-type]
    assert mine.active_adapters == ["default"]
