"""What two tokenizers' files say, against transformers' own reading of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from damage import edit_json
from tokenizers_made import make_tokenizer

from tinylora_tools.formats.tokenizer_files import TokenizerFiles, find_tokenizer, is_tokenizer_file


def found(directory: Path) -> TokenizerFiles:
    files = find_tokenizer(directory)
    assert files is not None
    return files


def differences(directory: Path) -> list[str]:
    return found(directory / "one").differences(found(directory / "other"))


def test_what_they_say_is_what_transformers_reads(tmp_path: Path) -> None:
    made = make_tokenizer(tmp_path, padding="<pad>", chat_template={"default": "{{ a }}", "tools": "{{ b }}\n"})
    made.add_tokens(["<new>"])
    made.save_pretrained(tmp_path)
    read, files = transformers.AutoTokenizer.from_pretrained(tmp_path), found(tmp_path)
    assert files.vocabulary == read.get_vocab()
    assert files.pad_token_id == read.pad_token_id == made.pad_token_id
    assert files.special_tokens == read.special_tokens_map
    assert files.chat_templates == {"default": "{{ a }}", "tools": "{{ b }}"}
    assert all(is_tokenizer_file(name) for name in files.files)


def test_the_same_tokenizer_in_other_bytes_is_the_same(tmp_path: Path) -> None:
    """Templates in the configuration, merges in one text each, defaults left out, vocabularies beside: so older
    releases save them."""
    make_tokenizer(tmp_path / "one", padding="<pad>", chat_template="{{ a }}")
    make_tokenizer(tmp_path / "other", padding="<pad>", chat_template="{{ a }}")
    other = tmp_path / "other"
    assert differences(tmp_path) == []
    (other / "chat_template.jinja").unlink()
    edit_json(other / "tokenizer_config.json", chat_template="{{ a }}", padding_side="right", added_tokens_decoder={})
    whole = json.loads((other / "tokenizer.json").read_text())
    whole["model"] |= {"merges": ["a b"], "ignore_merges": None}
    del whole["pre_tokenizer"]["use_regex"], whole["model"]["byte_fallback"], whole["decoder"]
    whole["padding"] = {"strategy": "BatchLongest"}
    (other / "tokenizer.json").write_text(json.dumps(whole))
    (other / "merges.txt").write_text("a b\n")
    assert differences(tmp_path) == []


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"vocabulary": ("a", "b", "ab", "c")}, ["the vocabulary (1 more: c)"]),
    ({"vocabulary": ("c", "a", "b", "ab")}, ["the vocabulary (1 more: c)"]),
    ({"vocabulary": ("b", "a", "ab")}, ["the vocabulary (other ids)"]),
    ({"padding": "<pad>"}, ["pad_token ('<pad>', not none)"]),
    ({"eos_token": "<pad>"}, ["eos_token ('<pad>', not '<eos>')"]),
    ({"chat_template": "{{ a }}"}, ["the chat template"]),
]


@pytest.mark.parametrize(("settings", "expected"), CHANGES, ids=[str(case[0]) for case in CHANGES])
def test_what_differs_is_said(settings: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "one")
    make_tokenizer(tmp_path / "other", **settings)
    assert differences(tmp_path) == expected


def test_another_first_token(tmp_path: Path) -> None:
    """Its id is 0, which is no default."""
    make_tokenizer(tmp_path / "one", vocabulary=("x", "a", "b", "ab"))
    make_tokenizer(tmp_path / "other", vocabulary=("y", "a", "b", "ab"))
    assert differences(tmp_path) == ["the vocabulary (1 more: y; 1 fewer: x)"]


@pytest.mark.parametrize(("part", "value", "said"), [
    ("pre_tokenizer", {"type": "Whitespace"}, "the pre_tokenizer"),
    ("normalizer", {"type": "NFC"}, "the normalizer"),
    ("model", {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<pad>": 3, "<eos>": 4}, "merges": []}, "the merges"),
    ("model", {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<pad>": 3, "<eos>": 4}, "merges": [["a", "b"]],
               "byte_fallback": True}, "the model's settings"),
])  # fmt: skip
def test_what_differs_in_how_text_is_split(part: str, value: Any, said: str, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "one")
    make_tokenizer(tmp_path / "other")
    edit_json(tmp_path / "other" / "tokenizer.json", **{part: value})
    assert differences(tmp_path) == [said]


def test_settings_count_where_both_state_them(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "one", padding_side="left")
    make_tokenizer(tmp_path / "other")
    edit_json(tmp_path / "other" / "tokenizer_config.json", name_or_path="elsewhere")
    assert differences(tmp_path) == []
    edit_json(tmp_path / "other" / "tokenizer_config.json", padding_side="right")
    assert differences(tmp_path) == ["padding_side ('right', not 'left')"]


def test_vocabularies_of_other_kinds_of_files(tmp_path: Path) -> None:
    """What can't be read is compared by its bytes; where there is nothing to compare, that is said."""
    for name, text in (("one", b"\x00sentencepiece"), ("other", b"\x00sentencepiece")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.model").write_bytes(text)
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"name_or_path": name}))
    assert differences(tmp_path) == []
    (tmp_path / "other" / "tokenizer.model").write_bytes(b"\x00another")
    assert differences(tmp_path) == ["tokenizer.model"]
    (tmp_path / "other" / "tokenizer.model").unlink()
    make_tokenizer(tmp_path / "other")
    assert differences(tmp_path)[0] == "the vocabulary (which is in a file that can't be compared)"
    assert found(tmp_path / "one").pad_token_id is None


def test_word_pieces_without_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}}))
    assert found(tmp_path).vocabulary == {"[PAD]": 0, "[UNK]": 1, "a": 2}
    assert found(tmp_path).pad_token_id == 0


def test_damaged_files_are_no_tokenizer_s(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "one")
    make_tokenizer(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text('{"model": {"merges": [["a", "b"], ["a"')
    assert differences(tmp_path)[0] == "the vocabulary (which is in a file that can't be compared)"


def test_chat_templates_alone(tmp_path: Path) -> None:
    """A template beside an adapter is no tokenizer that lacks everything else."""
    make_tokenizer(tmp_path / "one", chat_template="{{ a }}")
    (tmp_path / "other").mkdir()
    assert find_tokenizer(tmp_path / "other") is None
    assert find_tokenizer(tmp_path / "none") is None
    (tmp_path / "other" / "chat_template.jinja").write_text("{{ a }}\n")
    assert differences(tmp_path) == []
    (tmp_path / "other" / "chat_template.jinja").write_text("{{ b }}")
    assert differences(tmp_path) == ["the chat template"]
    template = found(tmp_path / "other")
    names = ("chat_template.jinja", "tokenizer.json", "config.json")
    assert [template.replaces(name) for name in names] == [True, False, False]
    assert [found(tmp_path / "one").replaces(name) for name in names] == [True, True, False]
