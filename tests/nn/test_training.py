"""What is trained, beside PEFT: v, biases, whole modules, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_models import CASES, built, by_peft, ours, output

from tinylora_tools import MismatchError, UnsupportedError
from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel


@pytest.mark.parametrize("name", ["mlp-4", "mlp-5", "qwen2", "bert-cls"])
@pytest.mark.parametrize("bias", ["none", "tinylora_only", "all"])
def test_it_is_what_peft_trains(name: str, bias: str) -> None:
    case, model = CASES[name], built(name)
    theirs, mine = by_peft(model, **case.config, bias=bias), ours(model, **case.config, bias=bias)
    there = {k for k, p in theirs.base_model.named_parameters() if p.requires_grad and "original_module" not in k}
    here = {k for k, p in mine.named_parameters() if p.requires_grad}
    assert {k for k in here if "tinylora_v" not in k} == {k for k in there if "tinylora_v" not in k}
    assert mine.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    trained, total = mine.get_nb_trainable_parameters()
    assert mine.print_trainable_parameters() == (
        f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {100 * trained / total:.4f}"
    )


def test_added_adapters_are_frozen_until_they_are_set() -> None:
    mine = ours(built("mlp-4"), **CASES["mlp-4"].config)
    mine.add_adapter("b", TinyLoraConfig(target_modules=("lin0",)))

    def trained() -> set[str]:
        return {name for name, p in mine.named_parameters() if p.requires_grad}

    assert trained() == {"tinylora_v.default.0", "tinylora_v.default.1"}
    mine.set_adapter("b")
    assert trained() == {"tinylora_v.b.0"}
    mine.set_adapter(["default", "b"])
    assert trained() == {"tinylora_v.default.0", "tinylora_v.default.1", "tinylora_v.b.0"}
    mine.set_adapter("b", inference_mode=True)
    assert trained() == set()


def test_training_moves_v_and_nothing_else() -> None:
    mine = ours(built("mlp-4"), **CASES["mlp-4"].config)
    before = {key: tensor.clone() for key, tensor in mine.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in mine.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(mine(**CASES["mlp-4"].inputs), torch.tensor([0, 1]))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = {key for key, tensor in mine.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"tinylora_v.default.0", "tinylora_v.default.1"}


@pytest.mark.parametrize("fused", [{"fused": True}, {"foreach": True}])
def test_optimizers_that_step_many_at_once(fused: dict[str, bool]) -> None:
    """Whether or not they count as a change of v, the next pass has the new one."""
    mine = ours(built("mlp-4"), **CASES["mlp-4"].config)
    inputs = CASES["mlp-4"].inputs
    optimizer = torch.optim.AdamW(mine.tinylora_v.parameters(), lr=0.1, **fused)  # type: ignore[arg-type]
    before = output(mine, inputs)
    mine(**inputs).square().sum().backward()
    optimizer.step()
    after = output(mine, inputs)
    assert not torch.equal(after, before)
    mine.merge_adapter()
    assert torch.allclose(output(mine, inputs), after, atol=1e-5)


def test_two_adapters_may_not_train_the_same_biases() -> None:
    mine = ours(built("mlp-4"), target_modules=["lin0"], bias="all")
    with pytest.raises(UnsupportedError, match="trains the base's biases already"):
        mine.add_adapter("b", TinyLoraConfig(target_modules=("lin1",), bias="tinylora_only"))
    with pytest.raises(UnsupportedError, match="which all rows have in common"):
        output(mine, CASES["mlp-4"].inputs, adapter_names=["default", "__base__"])
    with pytest.raises(MismatchError, match="no adapter is called"):
        mine.set_adapter("b")


def test_a_model_with_adapters_gets_no_second_model_around_it() -> None:
    mine: Any = ours(built("mlp-4"), target_modules=["lin0"])
    for one in (mine, mine.model):
        with pytest.raises(UnsupportedError, match="has TinyLoRA layers already"):
            TinyLoraModel(one, TinyLoraConfig(target_modules=("lin1",)))
