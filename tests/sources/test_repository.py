"""How repositories are named."""

from __future__ import annotations

import pytest

from tinylora_tools.errors import FormatError
from tinylora_tools.sources.repository import Repository, names_repository, parsed


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("hf://Qwen/Qwen2.5-0.5B", Repository("Qwen/Qwen2.5-0.5B")),
        ("hf://models/Q/q", Repository("Q/q")),
        ("hf://Q/q@v1.0", Repository("Q/q", "v1.0")),
        ("hf://Q/q@refs/pr/3", Repository("Q/q", "refs/pr/3")),
        ("hf://Q/q@feature%2Fx", Repository("Q/q", "feature/x")),
        ("https://huggingface.co/Q/q", Repository("Q/q")),
        ("https://huggingface.co/Q/q/", Repository("Q/q")),
        ("https://hf.co/Q/q?library=peft", Repository("Q/q")),
        ("https://huggingface.co/Q/q/tree/main", Repository("Q/q", "main")),
        ("https://huggingface.co/Q/q/tree/refs%2Fpr%2F3", Repository("Q/q", "refs/pr/3")),
        ("https://huggingface.co/Q/q/commit/0123abc", Repository("Q/q", "0123abc")),
    ],
)
def test_what_names_one(source: str, found: Repository) -> None:
    assert names_repository(source)
    assert parsed(source) == found
    assert parsed(str(found)) == found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("hf://", "'' can't be an owner or a name"),
        ("hf://gpt2", "'' can't be an owner or a name"),
        ("hf://o/..", "'..' can't be an owner or a name"),
        ("hf://o/n a", "'n a' can't be an owner or a name"),
        ("hf://a--b/c", "'a--b' can't be an owner or a name"),
        ("hf://o/n@", "'' can't be a revision"),
        ("hf://o/n@a b", "'a b' can't be a revision"),
        ("hf://o/n@../x", "'..' can't be a revision"),
        ("hf://o/n@%2e%2e%2Fx", "'../x' can't be a revision"),
        ("hf://o/n@main/x", "this is the file x in one"),
        ("hf://o/n/sub/x.bin", "this is the file sub/x.bin in one"),
        ("hf://datasets/o/n", "this is a dataset"),
        ("https://huggingface.co/Q", "'' can't be an owner or a name"),
        ("https://huggingface.co/spaces/Q/q", "this is a space"),
        ("https://huggingface.co/Q/q/blob/main/sub/x.bin", "this is the file sub/x.bin in one"),
        ("https://huggingface.co/Q/q/discussions", "it is another page of one"),
    ],
)
def test_what_names_none(source: str, what: str) -> None:
    with pytest.raises(FormatError) as caught:
        parsed(source)
    assert what in caught.value.what
    assert caught.value.where == source
    assert "hf://owner/name" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["owner/name", "./hf", "https://example.com/Q/q", "huggingface.co/Q/q"])
def test_what_is_a_path(source: str) -> None:
    assert not names_repository(source)
