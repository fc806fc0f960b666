"""Whose tokenizer a merged model gets, and what is said of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from classifiers import load, make
from damage import edit_json, snapshot
from tokenizers_made import make_tokenizer

from tinylora_tools import MismatchError, merge
from tinylora_tools.formats.tokenizer_files import is_tokenizer_file

pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "peft020-tiny"
Copied = Callable[[str], tuple[Path, Path]]


def tokens_of(directory: Path) -> dict[str, bytes]:
    return {name: data for name, data in snapshot(directory).items() if is_tokenizer_file(name)}


def test_the_base_s_with_a_word_on_what_differs(copied: Copied, tmp_path: Path) -> None:
    adapter, base = copied(NAME)
    make_tokenizer(base)
    make_tokenizer(adapter)
    assert merge(adapter, tmp_path / "same", base).warnings == []
    make_tokenizer(adapter, padding="<pad>", chat_template="{{ a }}", vocabulary=("a", "b", "ab", "<|user|>"))
    report = merge(adapter, tmp_path / "out", base)
    (said,) = report.warnings
    assert said.startswith("the tokenizer of adapter differs in the vocabulary (1 more: <|user|>), pad_token ('<pad>'")
    assert said.endswith(
        "and the chat template from the base's, which comes along; tokenizer='adapter' takes it, tokenizer='base' the "
        "base's without a word"
    )
    assert tokens_of(tmp_path / "out") == tokens_of(base)
    assert merge(adapter, tmp_path / "base", base, tokenizer="base").warnings == []
    assert tokens_of(tmp_path / "base") == tokens_of(base)


def test_the_adapter_s(copied: Copied, tmp_path: Path) -> None:
    """Whole, without a file of the base's: the merged model's tokenizer is the one of the training."""
    adapter, base = copied(NAME)
    make_tokenizer(base, chat_template="{{ base }}")
    (base / "merges.txt").write_text("a b\n")
    made = make_tokenizer(adapter, vocabulary=("a", "b", "ab", "c"), chat_template="{{ a }}")
    assert merge(adapter, tmp_path / "out", base, tokenizer="adapter").warnings == []
    assert tokens_of(tmp_path / "out") == tokens_of(adapter)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read.get_vocab() == made.get_vocab()
    assert read.chat_template == "{{ a }}"


def test_a_base_without_one(copied: Copied, tmp_path: Path) -> None:
    adapter, base = copied(NAME)
    make_tokenizer(adapter)
    (warning,) = merge(adapter, tmp_path / "out", base).warnings
    assert warning.startswith("the base has no tokenizer, and adapter has: it doesn't come along; tokenizer='adapter'")
    assert tokens_of(tmp_path / "out") == {}
    merge(adapter, tmp_path / "taken", base, tokenizer="adapter")
    assert tokens_of(tmp_path / "taken") == tokens_of(adapter)


def test_a_tokenizer_beside_an_adapter_with_a_name(copied: Copied, tmp_path: Path) -> None:
    """PEFT saves the adapter one directory below, a training its tokenizer above."""
    adapter, base = copied(NAME)
    outer = tmp_path / "in" / "outer"
    outer.mkdir()
    adapter.rename(outer / "second")
    make_tokenizer(outer)
    merge(outer, tmp_path / "out", base, tokenizer="adapter")
    assert tokens_of(tmp_path / "out") == tokens_of(outer)


def test_what_cannot_be_taken(copied: Copied, tmp_path: Path) -> None:
    adapter, base = copied(NAME)
    with pytest.raises(MismatchError, match="no tokenizer stands beside the adapter"):
        merge(adapter, tmp_path / "out", base, tokenizer="adapter")
    make_tokenizer(adapter)
    second = tmp_path / "in" / "second"
    shutil.copytree(adapter, second)
    merge([adapter, second], tmp_path / "both", base, tokenizer="adapter")
    make_tokenizer(second, eos_token="<pad>")  # noqa: S106
    with pytest.raises(MismatchError, match=r"differs in eos_token \('<pad>', not '<eos>'\) from that of adapter"):
        merge([adapter, second], tmp_path / "out", base, tokenizer="adapter")
    edit_json(base / "config.json", vocab_size=4)
    with pytest.raises(MismatchError, match="has ids up to 4, and the base embeds 4 tokens"):
        merge(adapter, tmp_path / "out", base, tokenizer="adapter")
    assert not (tmp_path / "out").exists()


def test_the_command(copied: Copied, tinylora: Any, tmp_path: Path) -> None:
    adapter, base = copied(NAME)
    make_tokenizer(adapter)
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "out")
    assert "--tokenizer adapter takes it, --tokenizer base the base's" in " ".join(result.err.split())
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "taken", "--tokenizer", "adapter")
    assert (result.code, result.err) == (0, "")
    assert tokens_of(tmp_path / "taken") == tokens_of(adapter)


def test_what_is_copied_takes_space(
    copied: Copied, refused: Callable[..., str], tinylora: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that come along count, the adapter's tokenizer where that is taken; what a training left doesn't."""
    adapter, base = copied(NAME)
    make_tokenizer(adapter)
    (base / "checkpoint-5").mkdir()
    (base / "checkpoint-5" / "trainer_state.json").write_bytes(b" " * 100_000)
    (base / "notes.txt").write_bytes(b" " * 50_000)
    options = ("--tokenizer", "adapter")
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "a", *options).code == 0
    written = snapshot(tmp_path / "a")
    needed = sum(len(data) for name, data in written.items() if name != "README.md")
    usage = type("usage", (tuple,), {"free": property(lambda self: self[0])})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage((needed - 1,)))
    assert f"the merged model takes {needed:,} bytes" in refused(adapter, base, *options)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage((needed,)))
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "b", *options).code == 0


@pytest.mark.parametrize("beside", ["adapter", "base"])
def test_a_classifier_s_padding_token(beside: str, tmp_path: Path) -> None:
    """config.json names none, and a decoder's classifier needs it: the tokenizer does."""
    made = make(tmp_path, "LlamaForCausalLM", "LlamaForSequenceClassification", target_modules=["q_proj"])
    edit_json(made.base / "config.json", pad_token_id=None)
    make_tokenizer(tmp_path / beside, padding="<pad>")
    report = merge(made.adapter, tmp_path / "merged", made.base, tokenizer="base" if beside == "base" else None)
    assert not any("padding" in text for text in report.warnings)
    assert load(tmp_path / "merged", made.class_name).config.pad_token_id == 3
    edit_json(made.base / "config.json", pad_token_id=0)
    report = merge(made.adapter, tmp_path / "other", made.base)
    assert any("config.json says pad_token_id 0, the tokenizer 3: the model scores" in one for one in report.warnings)
    assert load(tmp_path / "other", made.class_name).config.pad_token_id == 0
