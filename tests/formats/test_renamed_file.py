"""Tensors under other names, against the file that they are in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.formats.renamed_file import RenamedFile
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import TensorFile, TensorInfo

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_each_tensor_is_where_it_was(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, metadata={"format": "pt"})
    whole: TensorFile = read_header(path) if kind == "file" else MemoryFile(path, ARRAYS, {"format": "pt"})
    renamed = RenamedFile(whole, {"model.a": "a"}, {"head": TensorInfo("head", "F32", (4, 3), 0, 0)})
    assert (renamed.path, renamed.metadata) == (path, {"format": "pt"})
    assert list(renamed.tensors) == ["model.a", "head"]
    info, there = renamed.tensors["model.a"], whole.tensors["a"]
    assert info == TensorInfo("model.a", "F32", (2, 3), there.start, there.end)
    assert np.array_equal(renamed.read("model.a"), ARRAYS["a"])
    assert b"".join(renamed.pieces("model.a")) == ARRAYS["a"].tobytes()
    for name in ("a", "b", "head"):
        with pytest.raises(KeyError):
            renamed.read(name)
