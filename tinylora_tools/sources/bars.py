"""Whether huggingface_hub's own progress bars are seen: of downloads and uploads, which it alone knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_unseen: ContextVar[bool] = ContextVar("_unseen", default=False)


@contextmanager
def unseen(hide: bool = True) -> Iterator[None]:
    """Have no bars meanwhile, if they are to be hidden."""
    token = _unseen.set(hide or _unseen.get())
    try:
        yield
    finally:
        _unseen.reset(token)


@contextmanager
def as_told() -> Iterator[None]:
    """What huggingface_hub does meanwhile shows bars, or not, as `unseen` says; HF_HUB_DISABLE_PROGRESS_BARS has the
    last word."""
    from huggingface_hub import utils

    client: Any = utils
    if not _unseen.get() or client.are_progress_bars_disabled():
        yield
        return
    client.disable_progress_bars()
    try:
        yield
    finally:
        client.enable_progress_bars()
