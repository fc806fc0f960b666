"""Ways through modules, in classes made for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tinylora_tools.ops.architecture.effects import CALLED, TAKEN
from tinylora_tools.ops.architecture.following import Follower, methods_of
from tinylora_tools.ops.architecture.taken import taken_in


def linear() -> nn.Linear:
    return nn.Linear(2, 2)


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = linear()

    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        if h.dtype == self.x.weight.dtype and isinstance(self.x.weight, nn.Parameter):
            h = h.to(self.x.weight)
        unused = self.x.weight.unsqueeze(0)
        if other:
            return h @ self.x.weight
        del unused
        return self.x(h)


class ByConfiguration(Called):
    kernel = True

    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        return nn.functional.linear(h, self.x.weight) if self.kernel else self.x(h)


class OnTheDevice(Called):
    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        if "cuda" in self.x.weight.device.type:
            return self.fast(h)
        return self.x(h)

    def fast(self, h: torch.Tensor) -> Any:
        return h @ self.x.weight


class InTraining(Called):
    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        if self.training and h is not None:
            return h @ self.x.weight
        return self.x(h)


class Both(Called):
    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        logits = self.x(h)
        if other:
            logits = logits @ self.x.weight.t()
        return logits


class Inherited(Both):
    pass


class Hands(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = linear()
        self.head = Takes()

    def forward(self, h: torch.Tensor) -> Any:
        return self.head(self.x(h), self.x)


class Takes(nn.Module):
    def forward(self, h: torch.Tensor, embedding: nn.Module) -> Any:
        table = embedding.weight
        return h @ table


class HandsToMethod(Called):
    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        return self.look_up(h, table=self.x)

    def look_up(self, h: torch.Tensor, table: Any) -> Any:
        return table.weight[h]


class Deeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Called(), Called()])

    def forward(self, h: torch.Tensor) -> Any:
        for number, layer in enumerate(self.layers):
            h = layer(h) + layer.x.weight.sum() * number
        return h


class OnlyMade(Called):
    def forward(self, h: torch.Tensor, other: bool = False) -> Any:
        return self.x(h)

    def init_weights(self) -> None:
        self.x.weight.data.copy_(self.x.weight * 2)


@pytest.mark.parametrize(
    ("module_class", "taken"),
    [
        (Called, set()),
        (ByConfiguration, {"x"}),
        (OnTheDevice, {"x"}),
        (InTraining, set()),
        (Both, {"x"}),
        (Inherited, {"x"}),
        (Hands, {"x"}),
        (HandsToMethod, {"x"}),
        (Deeper, {"layers.0.x", "layers.1.x"}),
        (OnlyMade, set()),
        (linear, set()),
    ],
)
def test_ways_through_a_module(module_class: Any, taken: set[str]) -> None:
    assert taken_in(module_class().eval()) == taken


def test_a_configuration_decides() -> None:
    module = ByConfiguration()
    module.kernel = False
    assert taken_in(module) == set()


def test_conditions_on_parameters_are_open_unless_their_defaults_are_usual() -> None:
    module = Called()
    method = methods_of(module)["forward"]
    assert Follower(module).follow(method, "forward") == {"x": {CALLED, TAKEN}}
    assert Follower(module, usual=True).follow(method, "forward") == {"x": {CALLED}}
