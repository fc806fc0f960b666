"""tokenizer.json without its merges, however they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinylora_tools.formats.tokenizer_json import read_tokenizer_json

#: Tokens as they may be: with what JSON escapes, and with what could be taken for the merges' own.
PAIRS = [["a", "b"], ['"', "\\"], ["]", "}"], ["\n", "\u0120"], ['"merges": [', "é"], ["\U0001f600", "x y"]]
VOCABULARY = {"merges": 0, '"merges": [': 1, "\\": 2, '"merges":[["a","b"]]': 3}


def written(path: Path, merges: Any, **settings: Any) -> Any:
    model = {"type": "BPE", "vocab": VOCABULARY, "merges": merges, "last": [1]}
    path.write_text(json.dumps({"model": model, "after": {"merges": 5}}, **settings), "utf-8")
    return read_tokenizer_json(path)


def test_the_rest_is_as_json_reads_it(tmp_path: Path) -> None:
    found = written(tmp_path / "x.json", PAIRS)
    digest = found["model"].pop("merges")
    assert found == {"model": {"type": "BPE", "vocab": VOCABULARY, "last": [1]}, "after": {"merges": 5}}
    assert len(digest) == 64


def test_the_digest_is_that_of_the_pairs(tmp_path: Path) -> None:
    """In whatever form they are written; other pairs, or in another order, have another."""

    def digest(merges: Any, **settings: Any) -> str:
        return str(written(tmp_path / "x.json", merges, **settings)["model"]["merges"])

    expected = digest(PAIRS)
    assert digest(PAIRS, indent=2) == digest(PAIRS, ensure_ascii=False, separators=(",", ":")) == expected
    assert digest([" ".join(pair) for pair in PAIRS]) == expected
    for others in (PAIRS[:-1], PAIRS[::-1], [*PAIRS, ["a", "c"]], []):
        assert digest(others) != expected


@pytest.mark.parametrize("merges", [[1], [["a"]], [["a", "b", "c"]], None, "a b", [[]]], ids=str)
def test_what_is_no_pairs_is_left_to_json(merges: Any, tmp_path: Path) -> None:
    assert written(tmp_path / "x.json", merges)["model"]["merges"] == merges


@pytest.mark.parametrize("text", ["", "{", '{"merges": [["a", "b"]', '{"model": {"merges": ["a b",'])
def test_what_is_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_tokenizer_json(tmp_path / "x.json")
