"""The header parser against the reference implementation and against files that lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinylora_tools.errors import FormatError
from tinylora_tools.formats import safetensors_file
from tinylora_tools.formats.safetensors_file import build_header, read_header

WriteRaw = Callable[..., Path]


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets) if isinstance(offsets, tuple) else offsets}


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(4, dtype=np.int64),
        "c": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "scalar": np.array(3.0, np.float16),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "note": "é"})
    file = read_header(tmp_path / "x.safetensors")
    assert dict(file.metadata) == {"format": "pt", "note": "é"}
    assert file.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert file.tensors[name].shape == array.shape
        found = file.read(name)
        assert found.dtype == array.dtype
        assert found.tobytes() == array.tobytes()
    assert file.header == (tmp_path / "x.safetensors").read_bytes()[: len(file.header)]


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "isn't JSON"),
        (b"\xff\xfe", b"", "isn't JSON"),
        (b"[" * 100_000, b"", "isn't JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "isn't JSON"),
        (b"[]", b"", "no object"),
        (b'{"a": 1, "a": 2}', b"", "twice"),
        ({"__metadata__": {"a": 1}}, b"", "not a map from strings to strings"),
        ({"a": [1]}, b"", "isn't {dtype, shape, data_offsets}"),
        ({"a": {**entry(), "shape": None}}, bytes(8), "isn't a list of sizes"),
        ({"a": entry(dtype="F33")}, bytes(8), "unknown dtype 'F33'"),
        ({"a": entry(dtype=["F32"])}, bytes(8), "unknown dtype"),
        ({"a": entry(shape=(-2,))}, bytes(8), "isn't a list of sizes"),
        ({"a": entry(shape=(True, 2))}, bytes(8), "isn't a list of sizes"),
        ({"a": entry(shape=(2.0,))}, bytes(8), "isn't a list of sizes"),
        ({"a": entry(shape="2")}, bytes(8), "isn't a list of sizes"),
        ({"a": entry(offsets=(8, 0))}, bytes(8), r"aren't \[begin, end\]"),
        ({"a": entry(offsets=(0, 4, 8))}, bytes(8), r"aren't \[begin, end\]"),
        ({"a": entry(shape=(3,))}, bytes(8), "takes 12 bytes but has 8"),
        ({"a": entry(shape=(2**62, 2**62))}, bytes(8), "but has 8"),
        ({"a": entry(shape=(10**4000,))}, bytes(8), "isn't a list of sizes"),
        ({"a": entry(shape=(2**63,) * 20)}, bytes(8), "takes too many bytes but has 8"),
        ({"a": entry("F4", (3,), (0, 1))}, bytes(1), "takes 1.5 bytes"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "overlaps"),
        ({"a": entry(), "b": entry(offsets=(16, 24))}, bytes(24), "hole"),
        ({"a": entry(offsets=(8, 16))}, bytes(16), "hole"),
        ({"a": entry()}, bytes(7), "truncated: the tensors need"),
        ({"a": entry()}, bytes(9), "data end at byte"),
    ],
)
def test_refuses_headers_that_lie(write_raw: WriteRaw, header: Any, data: bytes, message: str) -> None:
    path = write_raw(header, data)
    with pytest.raises(FormatError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_refuses_lengths_that_lie(tmp_path: Path, write_raw: WriteRaw) -> None:
    with pytest.raises(FormatError, match="truncated"):
        read_header(write_raw({}, length=1000))
    with pytest.raises(FormatError, match="limit"):
        read_header(write_raw({}, length=2**63))
    (tmp_path / "short.safetensors").write_bytes(b"\0\0\0")
    with pytest.raises(FormatError, match="only 3 bytes"):
        read_header(tmp_path / "short.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=120), st.integers(0, 130), st.binary(max_size=4))
def test_damage_never_passes_what_the_reference_refuses(tmp_path: Path, junk: bytes, at: int, over: bytes) -> None:
    """Whatever bytes stand in a file: read as the reference reads it, or a FormatError, and nothing else."""
    good = json.dumps({"a": entry(), "b": entry("U8", (4,), (8, 12))}).encode()
    data = bytearray(len(good).to_bytes(8, "little") + good + bytes(12))
    data[at : at + len(over)] = over
    path = tmp_path / "damaged.safetensors"
    for content in (bytes(data), junk):
        path.write_bytes(content)
        try:
            ours = {name: info.shape for name, info in read_header(path).tensors.items()}
        except FormatError:
            continue
        try:
            with safe_open(path, "np") as file:
                theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            pytest.fail(f"passed {content!r}, which the reference refuses: {error}")
        assert ours == theirs


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")


@given(
    st.lists(
        st.tuples(names, st.sampled_from(["F32", "BF16", "U8"]), st.lists(st.integers(0, 3), max_size=3)),
        unique_by=lambda t: t[0],
    ),
    st.dictionaries(names, st.text(max_size=5), max_size=3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_built_headers_read_back(tmp_path: Path, tensors: Any, metadata: dict[str, str]) -> None:
    header, infos = build_header(tensors, metadata)
    assert len(header) % 8 == 0
    end = max((info.end for info in infos.values()), default=len(header))
    (tmp_path / "x.safetensors").write_bytes(header + bytes(end - len(header)))
    file = read_header(tmp_path / "x.safetensors")
    assert dict(file.metadata) == metadata
    assert dict(file.tensors) == infos
    with safe_open(tmp_path / "x.safetensors", "np") as reference:
        assert set(reference.keys()) == {name for name, _, _ in tensors}


@pytest.mark.parametrize("keep_open", [True, False])
def test_a_file_kept_open_is_the_one_that_was_checked(tmp_path: Path, keep_open: bool) -> None:
    """Where it is opened again, another file of its name is read; a shorter one is told."""
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(4.0)}, path)
    file = read_header(path, keep_open=keep_open)
    path.rename(tmp_path / "old.safetensors")
    path.write_bytes(file.header + np.ones(3).tobytes())
    if keep_open:
        assert file.read("a").tolist() == [0, 1, 2, 3]
        assert b"".join(file.pieces("a")) == np.arange(4.0).tobytes()
    else:
        with pytest.raises(FormatError, match="a: the file ended early; was it replaced while being read"):
            file.read("a")


def test_pieces_are_the_tensor_s_bytes_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": np.arange(5, dtype=np.int32), "b": np.zeros((0, 2), np.int32)}, tmp_path / "x.safetensors")
    file = read_header(tmp_path / "x.safetensors")
    monkeypatch.setattr(safetensors_file, "PIECE", 8)
    assert list(file.pieces("a")) == [bytes(file.read("a")[i : i + 2]) for i in (0, 2, 4)]
    assert list(file.pieces("b")) == []


def test_tensors_narrower_than_a_byte_have_bytes_but_no_numbers(write_raw: WriteRaw) -> None:
    file = read_header(write_raw({"a": entry("F4", (4,), (0, 2))}, b"\x12\x34"))
    assert b"".join(file.pieces("a")) == b"\x12\x34"
    with pytest.raises(FormatError, match="a: a packed F4 tensor can't be read as numbers"):
        file.read("a")


def test_a_file_that_is_cut_short_after_its_header_was_read_is_told(tmp_path: Path) -> None:
    """By `read` and `pieces` alike."""
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(100.0)}, path)
    file = read_header(path)
    os.truncate(path, file.size - 80)
    for look in (file.read, lambda name: list(file.pieces(name))):
        with pytest.raises(FormatError, match="a: the file ended early"):
            look("a")


def test_what_the_reference_reader_passes_over_is_passed_over(write_raw: Callable[..., Path]) -> None:
    path = write_raw({"__metadata__": None, "a": {**entry(), "more": 1}}, bytes(8))
    with safe_open(path, "numpy") as reference:
        assert reference.metadata() is None
        assert list(reference.keys()) == ["a"]
    assert (read_header(path).metadata, list(read_header(path).tensors)) == ({}, ["a"])
