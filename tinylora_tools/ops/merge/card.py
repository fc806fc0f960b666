"""The merged model's card: what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ... import __version__
from ...adapters.load import Adapter
from ...sources.locate import HUB_PREFIX, shown
from ...sources.model_card import is_repository, model_card, one_line, said_of_base
from .words import NewHead

_TIED = {
    "kept": "",
    "untied": "The base's tied embeddings were untied: the adapter changes one of them only.\n\n",
    "shared": "The base's tied embeddings share the update of the one that the adapter targets.\n\n",
}


def card_of(
    base: Path,
    adapters: Sequence[Adapter],
    scales: Sequence[float],
    tied: str,
    loss: float,
    head: NewHead | None = None,
) -> str:
    """A card that says what the merged model was made from. It names no path of the machine."""
    named = next((a.config.base_model_name_or_path for a in adapters if a.config.base_model_name_or_path), None)
    cached, _, commit = shown(base).removeprefix(HUB_PREFIX).partition("@")
    repository = cached if commit else named if named and _is_repository(named) else None
    origin = repository or one_line(base.resolve().name)
    made_of = "".join(f"- {_adapter_line(one, scale)}\n" for one, scale in zip(adapters, scales, strict=True))
    text = (
        f"# {origin} with TinyLoRA merged\n\n"
        f"The weights of {origin} with the updates of these TinyLoRA adapters added:\n\n{made_of}\n"
        f"{_TIED[tied]}{_head(head)}"
        f"Rounding changed the update by {loss:.2g} of its norm. Merged by tinylora-tools {__version__}.\n"
        f"{_origins(commit, adapters)}"
    )
    return model_card(text, base_model=repository, tags=["tinylora", "merge"], inherited=said_of_base(base))


def _origins(commit: str, adapters: Sequence[Adapter]) -> str:
    """Commits and releases, as far as they are known."""
    found = [f"- base: commit {commit}"] if commit else []
    for adapter in adapters:
        version, seed = adapter.config.peft_version, adapter.config.projection_seed
        by = f"PEFT {one_line(version)}" if version else "a release of PEFT that isn't known"
        seeded = f", seed {seed}" if adapter.header.has_config else ""
        _, _, own = shown(adapter.path).partition("@")
        at = f", commit {own.partition('/')[0]}" if own else ""
        found.append(f"- {one_line(adapter.path.resolve().name)}: {by}{seeded}{at}")
    return "".join(["\n", *(f"{line}\n" for line in found)])


def _head(head: NewHead | None) -> str:
    if head is None:
        return ""
    labels = f"{head.labels} label{'s' if head.labels > 1 else ''}"
    return f"It is a {head.class_name} with {labels}: its head is an adapter's own.\n\n"


def _is_repository(name: str) -> bool:
    """Whether a base's name is one on the Hub, and no path that is here."""
    return is_repository(name) and not Path(name).exists()


def _adapter_line(adapter: Adapter, scale: float) -> str:
    config = adapter.config
    settings = (
        f": r={config.r}, u={config.u}, weight_tying={config.weight_tying:g}" if adapter.header.has_config else ""
    )
    trained = sum(info.parameters for info in adapter.header.vectors.values())
    return f"{one_line(adapter.path.resolve().name)}{settings}, {trained} trained parameters, scale {scale:g}"
