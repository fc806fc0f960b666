"""Layers with updates beside them: what they compute, row by row too, and what they pass on of the layer inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_models import CASES, built, off, ours, output
from torch import nn

from tinylora_tools import MismatchError
from tinylora_tools.nn.layers import Embedding, Linear, TinyLoraLayer, wrapped
from tinylora_tools.nn.merging import update
from tinylora_tools.nn.shared import Shared


def adapted(base: nn.Module, kind: str, *, r: int = 2, u: int = 3, dropout: float = 0.0) -> TinyLoraLayer:
    shared = Shared()
    layer = wrapped(base, shared, "layer", kind)
    generator = torch.Generator().manual_seed(3)
    rows, columns = base.weight.shape if kind != "Conv1D" else base.weight.T.shape  # type: ignore[union-attr]
    A, B, P = (torch.randn(shape, generator=generator) for shape in ((r, columns), (rows, r), (u, r, r)))
    layer.put("a", A, B, P, "0", dropout=dropout, keep_projection=True)
    v = nn.Parameter(torch.randn(u, generator=generator))
    shared.vectors["a"] = nn.ParameterDict({"0": v})
    shared.active = ("a",)
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_adds_its_update(bias: bool) -> None:
    layer = adapted(nn.Linear(6, 4, bias=bias), "Linear")
    assert isinstance(layer, Linear)
    x = torch.randn(2, 3, 6)
    W = layer.weight + update(layer, "a")
    assert torch.allclose(layer(x), nn.functional.linear(x, W, layer.bias), atol=1e-5)
    assert layer(x[:0]).shape == (0, 3, 4)


def test_an_embedding_adds_its_update() -> None:
    layer = adapted(nn.Embedding(7, 4), "Embedding")
    assert isinstance(layer, Embedding)
    x = torch.tensor([[0, 6, 3]])
    assert torch.allclose(layer(x), (layer.weight + update(layer, "a"))[x], atol=1e-5)


def test_dropout_is_in_front_of_the_update_and_in_training_only() -> None:
    layer = adapted(nn.Linear(6, 4), "Linear", dropout=0.5)
    x = torch.randn(2, 6)
    torch.manual_seed(0)
    trained = layer(x)
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, 0.5)
    assert torch.allclose(trained, layer.base_layer(x) + kept @ update(layer, "a").T, atol=1e-5)
    layer.eval()
    assert torch.allclose(layer(x), layer.base_layer(x) + x @ update(layer, "a").T, atol=1e-5)


def test_what_it_has_not_got_is_the_layer_s_inside() -> None:
    base = nn.Linear(6, 4)
    layer = adapted(base, "Linear")
    assert layer.weight is base.weight
    assert layer.bias is base.bias
    assert (layer.in_features, layer.out_features) == (6, 4)
    with pytest.raises(AttributeError, match="nothing"):
        layer.nothing  # noqa: B018
    with pytest.raises(KeyError):
        layer.weight = nn.Parameter(torch.ones(4, 6))  # it would be passed over


def test_the_base_s_hooks_see_the_base_s_output() -> None:
    layer = adapted(nn.Linear(6, 4), "Linear")
    seen: list[torch.Tensor] = []
    layer.base_layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    x = torch.randn(2, 6)
    with torch.no_grad():
        layer(x)
    assert torch.equal(seen[0], nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("name", ["mlp-4", "qwen2", "bert-cls", "embedding"])
def test_rows_have_adapters_of_their_own(name: str) -> None:
    case = CASES[name]
    mine = ours(built(name), "one", **case.config)
    other: dict[str, Any] = {**case.config, "init_weights": "uniform", "init_v_bound": 0.5, "projection_seed": 99}
    from tinylora_tools.nn import TinyLoraConfig

    mine.add_adapter("two", TinyLoraConfig(**other), init_seed=5)
    inputs = {key: torch.cat([x, x]) for key, x in case.inputs.items()}
    alone = {}
    for adapter in ("one", "two"):
        mine.set_adapter(adapter)
        alone[adapter] = output(mine, inputs)
    with mine.disable_adapter():
        alone["__base__"] = output(mine, inputs)
    rows = ["one", "__base__", "two", "one"]
    mixed = output(mine, inputs, adapter_names=rows)
    for i, adapter in enumerate(rows):
        assert off(mixed[i], alone[adapter][i]) < 1e-6
    assert off(alone["one"], alone["two"]) > 1e-4
    assert torch.equal(output(mine, inputs), alone["two"])


def test_rows_that_are_not_the_batch_s_are_refused() -> None:
    mine = ours(built("mlp-4"), **CASES["mlp-4"].config)
    inputs = CASES["mlp-4"].inputs
    with pytest.raises(MismatchError, match="adapter_names has 3 names"):
        output(mine, inputs, adapter_names=["default"] * 3)
    with pytest.raises(MismatchError, match="'other', which isn't there"):
        output(mine, inputs, adapter_names=["default", "other"])
    assert output(mine, inputs).shape == (2, 2)


def test_generating_with_beams_keeps_rows_apart() -> None:
    mine = ours(built("qwen2"), **CASES["qwen2"].config)
    ids = CASES["qwen2"].inputs["input_ids"]
    settings: dict[str, Any] = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "pad_token_id": 0}
    alone = mine.generate(ids, **settings)
    assert torch.equal(mine.generate(ids, adapter_names=["default", "default"], **settings), alone)
    with mine.disable_adapter():
        base = mine.generate(ids, **settings)
    mixed = mine.generate(ids, adapter_names=["__base__", "default"], **settings)
    assert torch.equal(mixed[0], base[0])
    assert torch.equal(mixed[1], alone[1])
