"""A x of layers that get one input, formed once; and of those that don't, as if nothing was shared."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel, products
from tinylora_tools.nn.layers import Linear
from tinylora_tools.nn.products import Siblings, siblings_of


class Attention(nn.Module):
    """Reads one input with q, k and v, or another with k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        second = x if other is None else other
        found: torch.Tensor = self.o_proj(self.q_proj(x) + self.k_proj(second) * self.v_proj(second))
        return found


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.gate_proj, self.up_proj = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        x = self.attention(x, other)
        found: torch.Tensor = self.gate_proj(x) * self.up_proj(x)
        return found


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of a few numbers, too, have one product."""
    monkeypatch.setattr(products, "_WORTHWHILE", 0)


@pytest.fixture
def model() -> TinyLoraModel:
    torch.manual_seed(0)
    config = TinyLoraConfig(r=2, u=3, target_modules="all-linear", init_weights=False)
    return TinyLoraModel(Model(), config)


def one_by_one(model: TinyLoraModel, *inputs: torch.Tensor) -> torch.Tensor:
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    held = [layer.siblings for layer in layers]
    for layer in layers:
        layer.siblings = Siblings()
    found: torch.Tensor = model(*inputs)
    for layer, siblings in zip(layers, held, strict=True):
        layer.siblings = siblings
    return found


def test_layers_with_one_input_share_a_product(model: TinyLoraModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 8)
    formed: list[int] = []
    real = torch.cat
    monkeypatch.setattr("tinylora_tools.nn.products.torch.cat", lambda each: formed.append(len(each)) or real(each))
    together = model(x)
    assert formed == [3, 2]
    together.sum().backward()
    own = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = one_by_one(model, x)
    assert formed == [3, 2]
    assert torch.allclose(together, alone, atol=1e-6)
    alone.sum().backward()
    assert own
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, own[name], atol=1e-5), name


def test_another_input_gets_a_product_of_its_own(model: TinyLoraModel) -> None:
    x, other = torch.randn(5, 8), torch.randn(5, 8)
    assert torch.allclose(model(x, other), one_by_one(model, x, other), atol=1e-6)
    assert torch.allclose(model(other), one_by_one(model, other), atol=1e-6)


def test_an_input_that_is_written_to_is_another(model: TinyLoraModel) -> None:
    attention, x = model.model.attention, torch.randn(5, 8)
    with torch.no_grad():
        attention.q_proj(x)
        x += 1
        assert torch.allclose(attention.k_proj(x), attention.k_proj(x.clone()), atol=1e-6)
    with torch.inference_mode():
        made = torch.randn(5, 8)
        attention.q_proj(made)
        assert torch.allclose(attention.k_proj(made), attention.k_proj(made.clone()), atol=1e-6)


def test_nothing_is_kept_after_a_pass(model: TinyLoraModel) -> None:
    x = torch.randn(5, 8)
    model(x, torch.randn(5, 8))
    there = weakref.ref(x)
    del x
    gc.collect()
    assert there() is None
    siblings = model.model.attention.q_proj.siblings
    assert siblings._last is None
    assert siblings.layers == [getattr(model.model.attention, f"{name}_proj") for name in "qkv"]


def test_copies_have_siblings_of_their_own(model: TinyLoraModel) -> None:
    x = torch.randn(5, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert other.model.attention.k_proj in other.model.attention.q_proj.siblings.layers
        assert model.model.attention.k_proj not in other.model.attention.q_proj.siblings.layers


def test_a_checkpointed_layer_runs_again_as_it_did(model: TinyLoraModel) -> None:
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(5, 8, requires_grad=True)
    plain = model(x)
    plain.sum().backward()
    wanted, x.grad = x.grad, None
    attention = model.model.attention
    y = checkpoint(attention, x, use_reentrant=False)
    (model.model.gate_proj(y) * model.model.up_proj(y)).sum().backward()
    assert wanted is not None
    assert x.grad is not None
    assert torch.allclose(x.grad, wanted, atol=1e-6)


def test_dropout_keeps_an_input_for_itself() -> None:
    config = TinyLoraConfig(r=2, u=3, target_modules="all-linear", init_weights=False, tinylora_dropout=0.5)
    model, x = TinyLoraModel(Model(), config), torch.randn(500, 8)
    attention = model.model.attention.train()
    attention.q_proj(x)
    assert attention.q_proj.siblings._last is None


def test_names_tell_who_belongs_together() -> None:
    names = ["a.q_proj", "a.v_proj", "b.q_proj", "a.o_proj", "m.gate_proj", "m.up_proj", "m.down_proj"]
    found = siblings_of(names)
    assert found["a.q_proj"] is found["a.v_proj"] is not found["b.q_proj"]
    assert found["m.gate_proj"] is found["m.up_proj"] is not found["m.down_proj"]
    assert len({id(one) for one in found.values()}) == 5


def test_a_small_input_is_not_worth_it(model: TinyLoraModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_WORTHWHILE", 64)
    formed: list[int] = []
    real = torch.cat
    monkeypatch.setattr("tinylora_tools.nn.products.torch.cat", lambda each: formed.append(len(each)) or real(each))
    model(torch.randn(7, 8))
    assert formed == []
    model(torch.randn(8, 8))
    assert formed == [3, 2]
