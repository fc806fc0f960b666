"""Publish a model or an adapter on the Hub."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ...adapters.content import packed_in
from ...errors import FormatError, UnsupportedError
from ...formats.checkpoint import is_checkpoint
from ...formats.packed import Packed
from ...formats.peft.adapter import find_adapter
from ...formats.serving.mlx_adapter import WEIGHTS_NAME as MLX_WEIGHTS
from ...inputs import read_input
from ...output.companions import publishable
from ...sources.locate import locate, locate_base
from ...sources.model_card import CARD, head_of
from ...sources.repository import names_repository
from ...sources.upload import require_login, target, upload
from .cards import base_named, base_said, card_for


@dataclass(frozen=True, slots=True)
class PushReport:
    """What `tinylora push` did. `url` is the commit's page, `pull_request` that of the pull request which has it;
    `card` is "made", or "own" where the directory has one."""

    source: str
    repository: str
    url: str
    commit: str
    pull_request: str | None
    files: list[str]
    bytes_pushed: int
    card: str
    seconds: float
    warnings: list[str]


def push(
    path: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    base_model: str | None = None,
) -> PushReport:
    """Write a model's or an adapter's files to a repository on the Hub; an adapter's with a card, where it has none.

    Parameters
    ----------
    path : str or Path
        The directory of a model or an adapter, or a packed or GGUF adapter's file.
    repository : str
        `owner/name`, or as sources are named; it is made if it isn't there.
    private : bool
        What a repository that is made becomes.
    revision : str, optional
        A branch, which is made if it isn't there; main by default.
    create_pr : bool
        Open a pull request instead.
    message : str, optional
        The commit's.
    base_model : str, optional
        The base's repository, for the card of an adapter that doesn't name it.

    Raises
    ------
    FormatError
        If the repository can't be one, or there is neither a model nor an adapter at the path.
    UnsupportedError
        For a link that leads out of the directory, for a card that is the base's own, and for a model without one.
    TinyLoraError
        If nobody is logged in, or the Hub refuses it.
    """
    started = time.perf_counter()
    found, at = target(repository, revision), _on_this_machine(path)
    content = _content_of(at)
    require_login(found)
    files = publishable(at) if at.is_dir() else {at.name: at}
    own = CARD in files
    if own:
        _refuse_the_base_s_card(at, content)
    elif content is at and at.is_dir() and is_checkpoint(at):
        what = f"is a model without a card ({CARD}), and nothing here tells what it was made of"
        raise UnsupportedError(what, where=at, hint="Write one that names its base: merge does.")
    texts = {} if own else {CARD: card_for(at, content, found.id, base_model)}
    done = upload(files, texts, found, private=private, create_pr=create_pr, message=message)
    return PushReport(
        source=str(at),
        repository=found.id,
        url=done.url,
        commit=done.commit,
        pull_request=done.pull_request,
        files=sorted([*files, *texts]),
        bytes_pushed=sum(path.stat().st_size for path in files.values()) + sum(len(t.encode()) for t in texts.values()),
        card="own" if own else "made",
        seconds=round(time.perf_counter() - started, 3),
        warnings=_notes(at, content, own=own, base_model=base_model),
    )


def _on_this_machine(path: str | Path) -> Path:
    if names_repository(path):
        raise FormatError("is on the Hub, and not on this machine", where=path, hint="Name a directory or a file.")
    return locate(path)


def _content_of(at: Path) -> Packed | Path:
    """What is packed there; or the path itself, where there is something else to publish."""
    packed = packed_in(at)
    if packed is not None:
        return packed
    if at.is_file():
        if at.suffix != ".gguf":
            hint = "Name the directory that holds it, or a packed or GGUF adapter's file."
            raise FormatError("isn't published by itself", where=at, hint=hint)
        return at
    if not (is_checkpoint(at) or find_adapter(at) or (at / MLX_WEIGHTS).is_file() or any(at.glob("*.gguf"))):
        hint = "Name the directory that merge, init or convert wrote, or that PEFT saved."
        raise FormatError("holds neither a model nor an adapter", where=at, hint=hint)
    return at


def _notes(at: Path, content: Packed | Path, *, own: bool, base_model: str | None) -> list[str]:
    """What to know of the card."""
    if not own:
        known = base_model or base_named(at, content)
        return [] if known else ["the card names no base model: the adapter doesn't name one that is on the Hub"]
    head = head_of(at / CARD)
    tags = head.get("tags")
    if "base_model" in head and (not is_checkpoint(at) or (isinstance(tags, list) and "tinylora" in tags)):
        return []
    return [f"{CARD} names no base model in its head, or isn't what merge wrote: is it the base's own card?"]


def _refuse_the_base_s_card(at: Path, content: Packed | Path) -> None:
    """Raise UnsupportedError for a card that says of the base what isn't true of an adapter."""
    named = base_said(at, content)
    base = locate_base(named, None, at) if named else None
    if base is not None and (base / CARD).is_file() and read_input(base / CARD) == read_input(at / CARD):
        raise UnsupportedError(
            "is the base's own card, unchanged", where=at / CARD, hint="Remove it, and one is made; or write your own."
        )
