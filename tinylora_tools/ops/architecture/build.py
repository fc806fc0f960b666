"""A model of transformers on the meta device, and what its modules are to TinyLoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def build(model_class: Any, config: Any) -> Any:
    """A model on the meta device, which holds shapes alone, tied as its configuration says, as it is used."""
    import torch

    with _numbers_kept(torch), torch.device("meta"):
        model = model_class(config)
    model.tie_weights()
    return model.eval()


@contextmanager
def _numbers_kept(torch: Any) -> Iterator[None]:
    """Have tensors that are made of one number remember it: the meta device forgets it, and some embeddings have what
    they multiply by in such a buffer alone."""
    with torch.device("meta"):
        torch.empty(0)  # torch notes once which functions take its device: by their plain names
    plain = torch.tensor

    def remembering(data: Any, *arguments: Any, **given: Any) -> Any:
        made = plain(data, *arguments, **given)
        if isinstance(data, int | float):
            made.number = float(data)
        return made

    torch.tensor = remembering
    try:
        yield
    finally:
        torch.tensor = plain


def kind_of(module: Any) -> str | None:
    """The letter of a module that TinyLoRA can target, subclasses included, as PEFT's isinstance checks do."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Embedding):
        return "E"
    return "L" if isinstance(module, nn.Linear) else "C" if isinstance(module, Conv1D) else None
