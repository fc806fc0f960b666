"""A model card: its head as the Hub reads it."""

from __future__ import annotations

from typing import Any


def prepare_card() -> None:
    """Import what `model_card` takes: a fifth of a small merge's time, for where there is something to wait for."""
    import huggingface_hub.repocard_data  # noqa: F401


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
    from huggingface_hub import ModelCardData

    more: dict[str, Any] = {"base_model_relation": "merge"} if base_model else {}
    head = ModelCardData(library_name="transformers", tags=tags, base_model=base_model, **more)
    return f"---\n{head.to_yaml()}\n---\n\n{text}"
