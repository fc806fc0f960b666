"""A manifest says what is there by sha256, and what is damaged in it is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture, tensors

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.output.manifest import (
    NAME,
    Contents,
    Manifest,
    contents_of,
    files_in,
    read_manifest,
    write_manifest,
)
from tinylora_tools.workers import Workers

BASE = fixture("peft020-seed-only").base
EMPTY = Contents("a", {}, {})


def test_digests_are_those_of_the_bytes() -> None:
    checkpoint = read_checkpoint(BASE)
    files = files_in(BASE)
    listed = [(name, checkpoint.shards[number]) for name, number in checkpoint.shard_of.items()]
    with Workers(2) as pool:
        found = contents_of("base", files, listed, pool)
    assert found.files == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert set(files) == {path.name for path in BASE.iterdir()}
    assert found.tensors == {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors(BASE).items()}


def test_files_are_all_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", ".hidden", NAME):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("nothing")
    assert list(files_in(tmp_path)) == [".hidden", "a", "link", "sub/b"]


def test_it_comes_back(tmp_path: Path) -> None:
    manifest = Manifest({"dtype": "auto"}, Contents("base", {"a": "1"}, {"t": "2"}), (EMPTY, EMPTY), EMPTY)
    write_manifest(tmp_path, manifest, "tests")
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"format": "x"}, "isn't a manifest of version 1"),
        ({"version": 2}, "isn't a manifest of version 1"),
        ({"adapters": {}}, "its adapters or its settings are damaged"),
        ({"settings": None}, "its adapters or its settings are damaged"),
        ({"base": None}, "what it says of files and tensors is damaged"),
        ({"output": {"name": "a", "files": {}}}, "what it says of files and tensors is damaged"),
        ({"output": {"name": "a", "files": {"b": 1}, "tensors": {}}}, "what it says of files and tensors is damaged"),
        ({"adapters": [3]}, "what it says of files and tensors is damaged"),
    ],
)
def test_what_is_damaged_is_told(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest({}, EMPTY, (), EMPTY), "tests")
    said = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**said, **change}))
    with pytest.raises(FormatError, match=what) as caught:
        read_manifest(tmp_path)
    assert caught.value.where == str(tmp_path / NAME)


def test_a_model_without_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no tinylora-manifest\.json") as caught:
        read_manifest(tmp_path)
    assert caught.value.hint == "Merge again, and ask for a manifest."
