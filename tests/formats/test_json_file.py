"""JSON objects, and what a file says that holds none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.json_file import read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_objects_come_back(tmp_path: Path, value: dict[str, Any], encoding: str) -> None:
    (tmp_path / "x.json").write_bytes(json.dumps(value).encode(encoding))
    assert read_object(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        (b'{"a": 1', "not valid JSON (Expecting ',' delimiter: line 1 column 8 (char 7))"),
        (b'{"a": "\xff"}', "not valid JSON ('utf-8' codec can't decode byte 0xff in position 7: invalid start byte)"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b"null", "holds a JSON NoneType, expected an object"),
        (b'"x"', "holds a JSON str, expected an object"),
    ],
)
def test_anything_else_is_told_with_the_file(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_object(path)
    assert (caught.value.what, caught.value.where) == (what, str(path))


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_too_deep_or_too_long_for_python(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FormatError, match="not valid JSON"):
        read_object(tmp_path / "x.json")


def test_a_file_that_is_not_there_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "x.json")


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # of nothing but holes
    with pytest.raises(FormatError, match="is larger than 100,000,000 bytes") as caught:
        read_object(path)
    assert caught.value.where == str(path)
