"""A model card: its head as the Hub reads it, and names in it that can be nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..inputs import open_input

#: What the Hub calls a card.
CARD = "README.md"

#: Bytes of a card that are read.
_LONGEST = 1 << 20

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_repository(name: str) -> bool:
    """Whether a name can be a repository's on the Hub."""
    return _REPOSITORY.fullmatch(name) is not None


def one_line(name: str) -> str:
    """A name that starts no line of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def model_card(
    text: str,
    *,
    base_model: str | None,
    tags: list[str],
    relation: str = "merge",
    library: str | None = "transformers",
    inherited: Mapping[str, Any] | None = None,
) -> str:
    """A card with its YAML head.

    Parameters
    ----------
    text : str
        What follows the head, in Markdown.
    base_model : str, optional
        The repository that the model was made from.
    tags : list of str
        In front of those of the base.
    relation : "merge" or "adapter"
        To the base.
    library : str, optional
        What loads the model.
    inherited : Mapping, optional
        What the base's card says that holds here too: see `said_of_base`.
    """
    from huggingface_hub import ModelCardData  # a fifth of a small merge's time, which nothing else needs

    more: dict[str, Any] = {"base_model_relation": relation} if base_model else {}
    of_base = dict(inherited or {})
    tags = list(dict.fromkeys([*tags, *of_base.pop("tags", [])]))
    head = ModelCardData(library_name=library, tags=tags, base_model=base_model, **of_base, **more)
    return f"---\n{head.to_yaml()}\n---\n\n{text}"


def said_of_base(directory: Path) -> dict[str, Any]:
    """License and tags of a base, as the card in its directory has them; nothing where there is none, or it can't be
    read."""
    said = head_of(directory / CARD)
    found = {key: said[key] for key in ("license", "license_name", "license_link") if isinstance(said.get(key), str)}
    tags = said.get("tags")
    if isinstance(tags, list):
        found["tags"] = [tag for tag in tags if isinstance(tag, str)]
    return found


def head_of(card: Path) -> dict[str, Any]:
    """A card's YAML head; empty where there is none, or it can't be read."""
    if not card.is_file():
        return {}
    from huggingface_hub import ModelCard  # which brings more than its data do

    try:
        with open_input(card) as file:
            text = file.read(_LONGEST).decode("utf-8")
        data: Any = ModelCard(text, ignore_metadata_errors=True).data
        return dict(data.to_dict())
    except Exception:  # YAML can go wrong in many ways, of which none concerns who reads a card
        return {}
