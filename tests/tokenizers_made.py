"""Small tokenizers that transformers saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import transformers


def make_tokenizer(
    directory: Path, *, vocabulary: tuple[str, ...] = ("a", "b", "ab"), padding: str | None = None, **settings: Any
) -> Any:
    """A tokenizer of byte pairs, saved there: "ab" is the merge of "a" and "b", and special tokens come behind."""
    ids = {token: i for i, token in enumerate((*vocabulary, "<pad>", "<eos>"))}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=[("a", "b")]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=padding, **{"eos_token": "<eos>", **settings}
    )
    made.save_pretrained(directory)
    return made
