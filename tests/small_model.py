"""A model of a few layers that PEFT adapts and saves in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TinyLoraConfig, get_peft_model


class SmallModel(torch.nn.Module):
    """An embedding, two linear layers, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.layer = torch.nn.ModuleList([torch.nn.Linear(4, 6), torch.nn.Linear(6, 4)])
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 2)


TARGETS = ["embed", "layer.0", "layer.1"]


def adapted(**settings: Any) -> Any:
    """The model as PEFT adapts it with TinyLoRA, with a v that isn't zero."""
    torch.manual_seed(1)
    given = {"r": 2, "u": 3, "init_weights": "uniform", "target_modules": TARGETS, **settings}
    return get_peft_model(SmallModel(), TinyLoraConfig(**given))


def saved(directory: Path, **settings: Any) -> Path:
    """A directory with the adapter that PEFT saves of it."""
    adapted(**settings).save_pretrained(directory)
    return directory


def saved_lora(directory: Path, **settings: Any) -> Path:
    """A directory with a LoRA adapter of the same model."""
    get_peft_model(SmallModel(), LoraConfig(**{"r": 2, "target_modules": TARGETS, **settings})).save_pretrained(
        directory
    )
    return directory
