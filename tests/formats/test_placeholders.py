"""What stands in place of a file or a tensor, and is said to be that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_files import WEIGHTS, Tensors, edited_copy
from fixture_data import ROOT, fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import FormatError
from tinylora_tools.formats.checkpoint import read_checkpoint, read_tensor_file
from tinylora_tools.formats.placeholders import refuse_pointer, said_of_spread, spread
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import TensorInfo
from tinylora_tools.formats.third_party import find

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 988097824\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize(("content", "said"), [(POINTER, "is a Git LFS pointer"), (b"", "is empty: 0 bytes")])
def test_pointers_and_empty_files(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """Of a base and of an adapter, by its directory and by itself."""
    shutil.copy(ROOT / "bases" / "qwen2-bf16" / "config.json", tmp_path)
    path = tmp_path / name
    path.write_bytes(content)
    readers = [read_tensor_file, load_adapter]
    for read in readers:
        with pytest.raises(FormatError, match=said):
            read(path)
    with pytest.raises(FormatError, match=said):
        load_adapter(tmp_path) if name.startswith("adapter") else read_checkpoint(tmp_path)
    if path.suffix == ".safetensors":
        with pytest.raises(FormatError, match=said) as caught:
            read_header(path)
        assert ("git lfs pull" in str(caught.value.hint)) == (content == POINTER)
    assert find(tmp_path, checkpoints=False) is None


def test_anything_else_is_no_pointer(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"version of mine")
    refuse_pointer(tmp_path / "x")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / WEIGHTS)
    with pytest.raises(FormatError, match="holds no tensor at all"):
        load_adapter(tmp_path)


def test_what_zero_3_leaves_of_parameters(tmp_path: Path) -> None:
    """Of an adapter it leaves the factors, which are buffers, and takes the vectors; of a base everything."""
    left = spread({"v": TensorInfo("v", "F32", (0,), 0, 0), "A": TensorInfo("A", "F32", (0, 3), 0, 0)})
    assert left == ["v"]
    assert said_of_spread(left).startswith("v: the shape is (0,), which DeepSpeed's ZeRO-3 leaves")
    case = fixture("peft021-layers")

    def partitioned(tensors: Tensors) -> None:
        for key in tensors:
            if ".tinylora_v." in key:
                tensors[key] = np.zeros(0, np.float32)

    with pytest.raises(
        FormatError, match=r"tinylora_v\.0 and 5 more: the shape is \(0,\), which DeepSpeed's"
    ) as caught:
        load_adapter(edited_copy(case.name, tmp_path / "a", partitioned))
    assert "zero_to_fp32.py" in str(caught.value.hint)
    base = tmp_path / "base"
    base.mkdir()
    tensors = load_file(case.base / "model.safetensors")
    save_file({name: np.zeros(0, np.float32) for name in tensors}, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(FormatError, match=r"weight and \d+ more: the shape is \(0,\)"):
        _ = Base(base).checkpoint
    torch.save({"model.norm.weight": torch.zeros(0)}, base / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"model\.norm\.weight: the shape is \(0,\)"):
        read_checkpoint(base / "pytorch_model.bin")
