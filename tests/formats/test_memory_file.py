"""Arrays in memory that read as a file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tinylora_tools.formats import memory_file
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import TensorInfo

ARRAYS: dict[str, Any] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float16),
    "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
}


def test_it_says_of_its_tensors_what_a_file_does(tmp_path: Path) -> None:
    plain = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in ARRAYS.items()}
    save_file(plain, tmp_path / "x.safetensors")
    file, memory = read_header(tmp_path / "x.safetensors"), MemoryFile(Path("x"), ARRAYS)
    assert list(memory.tensors) == list(ARRAYS)
    for name, info in file.tensors.items():
        assert memory.tensors[name] == TensorInfo(name, info.dtype, info.shape, 0, info.nbytes)
        assert b"".join(memory.pieces(name)) == b"".join(file.pieces(name)) == file.read(name).tobytes()


def test_what_it_gives_is_the_array_itself() -> None:
    memory = MemoryFile(Path("x"), ARRAYS)
    assert memory.read("a") is ARRAYS["a"]


def test_pieces_are_no_longer_than_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "PIECE", 10)
    pieces = list(MemoryFile(Path("x"), ARRAYS).pieces("a"))
    assert [len(piece) for piece in pieces] == [10, 10, 4]
    assert b"".join(pieces) == ARRAYS["a"].tobytes()


def test_another_file_s_tensors_are_kept_when_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": ARRAYS["a"], "scalar": ARRAYS["scalar"]}, path, metadata={"note": "é"})
    file = read_header(path)
    everything, one = MemoryFile.of(file), MemoryFile.of(file, {"a": file.tensors["a"]})
    path.unlink()
    assert list(everything.tensors) == list(file.tensors)
    assert list(one.tensors) == ["a"]
    for memory in (everything, one):
        assert memory.path == path
        assert memory.metadata == {"note": "é"}
        assert memory.read("a").tobytes() == ARRAYS["a"].tobytes()
