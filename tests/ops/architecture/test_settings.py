"""Where a module's settings come from, by the source of classes made for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tinylora_tools.ops.architecture.settings import entries_of

CONFIG = {"width": 8, "fast": True, "text_config": {"fast": False, "act": "silu"}}


class Settings:
    width = 8
    fast = True
    act = "silu"


class Inherited(torch.nn.Module):
    def __init__(self, config: Any, scale: int = 1, kind: str = "a") -> None:
        super().__init__()
        self.config = config
        self.is_gated = config.act != "relu" and config.fast
        self.made_of = config.unknown
        self.scale = scale
        self.kind = kind
        self.number = 3
        self.sum = scale + 1


class Module(Inherited):
    def __init__(self, config: Any) -> None:
        config.unknown = 1
        super().__init__(config, kind="b")
        self.own = config.width


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("width", ["width"]),
        ("fast", ["fast", "text_config.fast"]),  # whose of the two isn't told: both count
        ("own", ["width"]),
        ("is_gated", ["text_config.act", "fast", "text_config.fast"]),
        ("number", []),
        ("scale", []),  # the default, which nothing else was given for
        ("kind", None),  # which another class gave
        ("made_of", None),
        ("sum", None),
        ("absent", None),
    ],
)
def test_settings(setting: str, found: list[str] | None) -> None:
    assert entries_of(setting, Module(Settings()), CONFIG) == found
