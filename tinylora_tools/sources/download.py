"""What is downloaded of a repository, to the Hub's cache: of its weights only those that a model is loaded from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from ..formats.checkpoint import lacks_shards
from ..workers import left_to_itself
from .bars import as_told, unseen
from .hub_errors import not_whole, told
from .repository import Repository

#: What a checkpoint or an adapter needs besides its weights: no weights of other frameworks, no images.
_TEXTS = [
    "*.json", "*.txt", "*.model", "*.model.v*", "*.tiktoken", "*.spm", "*.bpe", "*.jinja", "*.py", "*.md", "LICENSE*",
    "NOTICE*",
]  # fmt: skip

#: Weights that stand beside those which transformers loads: the same ones in another form or dtype, and of a training.
_BESIDES = [
    "consolidated*", "*.fp16.*", "*.bf16.*", "*.fp32.*", "*/*.safetensors", "*/*.bin", "training_args.bin",
    "optimizer*.bin", "scheduler*.bin",
]  # fmt: skip


def texts(repository: Repository, source: str) -> Path:
    """A repository's snapshot with all but its weights."""
    with unseen():  # they are small
        return _snapshot(repository, source, [])


def whole(repository: Repository, source: str, names: Collection[str] | None) -> Path:
    """A repository's snapshot with its .safetensors, or without any its .bin; `names` are its files, None where
    the Hub can't be asked.

    Raises
    ------
    TinyLoraError
        If it can't be had, or the cache has a part of it and no more can be had.
    """
    for weights in ("*.safetensors", "*.bin"):
        if weights != "*.bin" and names is not None and not any(map(_is_one(weights), names)):
            continue
        found = _snapshot(repository, source, [weights])
        if any(found.glob(weights)) and (names is not None or not lacks_shards(found)):
            return found
    if names is None:
        raise not_whole(repository, source)
    return found


def _is_one(pattern: str) -> Callable[[str], bool]:
    return lambda name: fnmatch(name, pattern) and not any(fnmatch(name, beside) for beside in _BESIDES)


def _snapshot(repository: Repository, source: str, weights: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with told(repository, source), as_told():
        fetch = partial(
            snapshot_download,
            repository.id,
            revision=repository.revision,
            allow_patterns=[*_TEXTS, *weights],
            ignore_patterns=_BESIDES,
        )
        return Path(left_to_itself(fetch))
