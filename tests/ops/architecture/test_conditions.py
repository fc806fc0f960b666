"""What conditions in a module's source ask for."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest
import torch

from tinylora_tools.ops.architecture.conditions import condition, settings_in


class Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2))
        self.absent = None
        self.register_module("optional", None)
        self.config = SimpleNamespace(fast=True, text_config=SimpleNamespace(act="silu"))


@pytest.mark.parametrize(
    ("test", "settings"),
    [
        ("self.tp > 1", {"tp"}),
        ("self.config.fast and self.slow", {"fast", "slow"}),
        ("self.config.text_config.act == 'silu'", {"act"}),
        ("getattr(self.config, 'fast', False)", {"fast"}),
        ("hasattr(self, 'inner')", {"inner"}),
        ("self.inner is not None", set()),
        ("self.optional is None", set()),  # where a module could be
        ("self.absent is None", {"absent"}),
        ("self.training", set()),
        ("other.tp > tp", set()),
    ],
)
def test_settings(test: str, settings: set[str]) -> None:
    assert settings_in(ast.parse(test, mode="eval").body, Module()) == settings


@pytest.mark.parametrize(
    ("test", "names"),
    [
        ("self.tp > limit", {"self", "limit"}),
        ("getattr(self, 'tp', 1) > 1", {"self"}),
        ("self.weight.is_cuda", None),
        ("self.inner.weight.dtype == x.dtype", None),
        ("self.ready()", None),
    ],
)
def test_what_can_be_decided(test: str, names: set[str] | None) -> None:
    code, found = condition(ast.parse(test, mode="eval").body)
    assert (code is None) == (names is None)
    assert found == (names or set())
