"""A model card: its head as the Hub reads it, and names in it that can be nothing else."""

from __future__ import annotations

import re
from typing import Any

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_repository(name: str) -> bool:
    """Whether a name can be a repository's on the Hub."""
    return _REPOSITORY.fullmatch(name) is not None


def one_line(name: str) -> str:
    """A name that starts no line of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


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
