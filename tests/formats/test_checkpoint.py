"""Checkpoints against safetensors' and torch's own readers; indexes that disagree with their shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixture_data import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.checkpoint import is_checkpoint, read_checkpoint

BASES = sorted(path for path in (ROOT / "bases").iterdir() if path.is_dir())


@pytest.mark.parametrize("base", BASES, ids=lambda path: path.name)
def test_every_base_is_read_as_the_libraries_read_it(base: Path) -> None:
    checkpoint = read_checkpoint(base)
    expected: dict[str, torch.Tensor] = {}
    for path in (*base.glob("*.safetensors"), *base.glob("*.bin")):
        expected |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert is_checkpoint(base)
    assert checkpoint.config == json.loads((base / "config.json").read_text())
    assert checkpoint.shard_of.keys() == expected.keys()
    assert {info.name for info in checkpoint.tensor_infos()} == expected.keys()
    for name, tensor in expected.items():
        assert name in checkpoint
        assert checkpoint.info(name).shape == tuple(tensor.shape)
        assert checkpoint.read(name).tobytes() == tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards and their index."""
    save_file({"a": torch.zeros(2), "b": torch.ones(3), "unlisted": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"c": torch.full((4,), 2.0)}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"})
    return tmp_path


def write_index(directory: Path, weight_map: Any) -> None:
    text = json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)


def test_an_index_says_what_is_part_of_the_model(sharded: Path) -> None:
    checkpoint = read_checkpoint(sharded)
    assert checkpoint.config is None
    assert [shard.path.name for shard in checkpoint.shards] == ["one.safetensors", "two.safetensors"]
    assert checkpoint.shard_of == {"a": 0, "b": 0, "c": 1}
    assert "unlisted" not in checkpoint
    assert [info.name for info in checkpoint.tensor_infos()] == ["a", "b", "c"]
    assert checkpoint.index is not None
    assert checkpoint.index["metadata"] == {"total_size": 36}
    assert checkpoint.read("c").tolist() == [2.0] * 4


def test_files_are_preferred_in_from_pretrained_s_order(sharded: Path) -> None:
    torch.save({"a": torch.full((2,), 7.0)}, sharded / "pytorch_model.bin")
    torch.save({"a": torch.full((2,), 8.0)}, sharded / "eight.bin")
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "eight.bin"}}))
    save_file({"a": torch.full((2,), 5.0)}, sharded / "model.safetensors")
    found = []
    for name in (
        "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    ):  # fmt: skip
        assert is_checkpoint(sharded)
        found.append(float(read_checkpoint(sharded).read("a")[0]))
        (sharded / name).unlink()
    assert found == [5.0, 0.0, 7.0, 8.0]
    assert not is_checkpoint(sharded)
    with pytest.raises(FormatError, match=r"no checkpoint here: none of model\.safetensors, model\.s"):
        read_checkpoint(sharded)


@pytest.mark.parametrize(
    ("weight_map", "what"),
    [
        (None, "weight_map isn't a map from tensor names to file names"),
        (["one.safetensors"], "weight_map isn't a map from tensor names to file names"),
        ({"a": 5}, "weight_map isn't a map from tensor names to file names"),
        ({"a": "gone.safetensors"}, "1 of the 1 shards that the index lists aren't there: gone.safetensors"),
        (
            {"a": "one.safetensors", **{str(i): f"{i}.safetensors" for i in range(5)}},
            "5 of the 6 shards that the index lists aren't there: 0.safetensors, 1.safetensors, 2.safetensors and 2 "
            "more",
        ),
        ({"c": "one.safetensors"}, "the index places c in one.safetensors, which doesn't hold it"),
        ({"a": "../one.safetensors"}, "the index names '../one.safetensors', which is outside its directory"),
        ({"a": "x/../../one.safetensors"}, "the index names 'x/../../one.safetensors', which is outside"),
        ({"a": "/etc/hostname"}, "the index names '/etc/hostname', which is outside its directory"),
        ({"a": "..\\one"}, "which is outside its directory"),
        ({"a": "C:one"}, "the index names 'C:one', which is outside its directory"),
        ({"a": ""}, "the index names '', which is outside its directory"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_indexes_that_disagree_with_their_shards(sharded: Path, weight_map: Any, what: str) -> None:
    write_index(sharded, weight_map)
    with pytest.raises(FormatError) as caught:
        read_checkpoint(sharded)
    assert what in caught.value.what
    assert caught.value.where == str(sharded / "model.safetensors.index.json")


def test_a_file_alone_is_a_checkpoint_with_the_config_beside_it(sharded: Path) -> None:
    (sharded / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = read_checkpoint(sharded / "one.safetensors")
    assert checkpoint.path == sharded / "one.safetensors"
    assert checkpoint.config == {"model_type": "llama"}
    with safe_open(sharded / "one.safetensors", "np") as file:
        assert checkpoint.shard_of.keys() == set(file.keys())


def test_tensors_that_are_held_are_read_from_memory(sharded: Path) -> None:
    checkpoint = read_checkpoint(sharded)
    held = checkpoint.holding({"a": np.full(2, 9.0, np.float32)}).holding({"c": np.full(4, 3.0, np.float32)})
    shutil.rmtree(sharded)
    assert held.read("a").tolist() == [9.0, 9.0]
    assert held.read("c").tolist() == [3.0] * 4
    assert held.source("a").path == sharded / "one.safetensors"
    assert held.source("b") is held.shards[0]
    assert not checkpoint.held
