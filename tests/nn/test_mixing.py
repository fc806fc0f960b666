"""R of live layers: its value, its gradient, and that it is never older than its v."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from live_models import CASES, built, ours, output

from tinylora_tools.core.lowrank import projected
from tinylora_tools.nn import mixing
from tinylora_tools.nn.mixing import holding, mixed, value


def layer_of(u: int = 5, r: int = 3, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(u * r)
    v = torch.randn(u, generator=generator).to(dtype).requires_grad_()
    P = torch.randn(u, r, r, generator=generator).to(dtype)
    return SimpleNamespace(vector=lambda _: v, projection=lambda _: P)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_value_is_the_sum(dtype: torch.dtype) -> None:
    layer = layer_of(dtype=dtype)
    v, P = layer.vector("a"), layer.projection("a")
    exact = projected(v.detach().double().numpy(), P.double().numpy())
    found = mixed(layer, "a")
    assert found.dtype == dtype
    assert np.allclose(found.detach().double().numpy(), exact, rtol=8 * torch.finfo(dtype).eps, atol=1e-6)
    many = value(torch.stack([v, 2 * v]), torch.stack([P, P]))
    assert torch.allclose(many[1], 2 * many[0])


def test_the_gradient_is_the_sum_s() -> None:
    layer = layer_of(dtype=torch.float64)
    v, P = layer.vector("a"), layer.projection("a")
    assert torch.autograd.gradcheck(
        lambda x: mixed(SimpleNamespace(vector=lambda _: x, projection=lambda _: P), "a"), v
    )
    assert torch.autograd.gradgradcheck(
        lambda x: mixed(SimpleNamespace(vector=lambda _: x, projection=lambda _: P), "a") ** 2, v
    )


def test_autocast_does_not_round_it() -> None:
    layer = layer_of()
    with torch.autocast("cpu", torch.bfloat16):
        under = mixed(layer, "a")
    assert torch.equal(under, mixed(layer, "a"))


def test_each_use_has_a_graph_of_its_own() -> None:
    layer = layer_of()
    with holding([(layer, "a")]):
        first, second = mixed(layer, "a"), mixed(layer, "a")
    first.sum().backward()
    second.sum().backward()
    v, P = layer.vector("a"), layer.projection("a")
    assert torch.allclose(v.grad, 2 * P.sum((1, 2)))


def test_a_pass_forms_each_shape_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ours(built("qwen2"), target_modules="all-linear", u=4, weight_tying=0.5)
    counted = []
    monkeypatch.setattr(mixing, "value", lambda v, P: counted.append(P.shape) or value(v, P))
    inputs = CASES["qwen2"].inputs
    output(mine, inputs)
    assert counted == [(14, 4, 2, 2)]
    mine(**inputs).logits.sum().backward()
    assert counted == [(14, 4, 2, 2)] * 2


@pytest.mark.parametrize("how", ["data", "in place", "step", "assigned", "vector"])
def test_no_r_is_older_than_its_v(how: str) -> None:
    """However v changes, counted by torch or not, the next pass has it."""
    mine = ours(built("mlp-4"), target_modules=["lin0", "lin1"], u=4, weight_tying=1.0)
    inputs = CASES["mlp-4"].inputs
    v = mine.tinylora_v["default"]["0"]  # type: ignore[index]
    before = output(mine, inputs)
    if how == "data":
        v.data.mul_(3)
    elif how == "in place":
        with torch.no_grad():
            v.mul_(3)
    elif how == "assigned":
        v.data = v.data * 3
    elif how == "vector":
        torch.nn.utils.vector_to_parameters(v.detach() * 3, [v])
    else:
        mine(**inputs).sum().backward()
        torch.optim.SGD([v], lr=1.0).step()
    after = output(mine, inputs)
    assert not torch.equal(after, before)
    again = ours(built("mlp-4"), target_modules=["lin0", "lin1"], u=4, weight_tying=1.0)
    with torch.no_grad():
        again.tinylora_v["default"]["0"].copy_(v)  # type: ignore[index]
    assert torch.equal(output(again, inputs), after)
