"""A model card: its head as the Hub reads it."""

from __future__ import annotations

from threading import Thread
from typing import Any


def prepare_card() -> None:
    """Begin to import what `model_card` takes, beside other work: it is a fifth of a small merge's time."""
    Thread(target=_card_data, name="model card").start()


def _card_data() -> Any:
    from huggingface_hub import ModelCardData

    return ModelCardData


def model_card(text: str, *, base_model: str | None, tags: list[str]) -> str:
    """A card with its YAML head.

    Parameters
    ----------
    text : str
        What follows the head, in Markdown.
    base_model : str, optional
        The repository that the model was made from.
    tags : list of str
    """
    more: dict[str, Any] = {"base_model_relation": "merge"} if base_model else {}
    head = _card_data()(library_name="transformers", tags=tags, base_model=base_model, **more)
    return f"---\n{head.to_yaml()}\n---\n\n{text}"
