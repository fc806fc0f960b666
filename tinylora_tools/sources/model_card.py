"""A model card: its head as the Hub reads it."""

from __future__ import annotations

from typing import Any


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
    from huggingface_hub import ModelCardData  # a fifth of a small merge's time, which nothing else needs

    more: dict[str, Any] = {"base_model_relation": "merge"} if base_model else {}
    head = ModelCardData(library_name="transformers", tags=tags, base_model=base_model, **more)
    return f"---\n{head.to_yaml()}\n---\n\n{text}"
