"""A base that is at hand: opened by a path, a file or a name, each part of it read once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fixture_data import ROOT, fixture, tensors
from safetensors.numpy import load_file

from tinylora_tools.bases.base import Base, open_base
from tinylora_tools.errors import FormatError

QWEN2 = ROOT / "bases" / "qwen2-bf16"


def test_a_directory_and_a_file_of_it_are_the_same_base() -> None:
    for path in (QWEN2, QWEN2 / "model.safetensors"):
        base = open_base(path)
        assert (base.path, base.directory) == (QWEN2, QWEN2)
        assert base.config == json.loads((QWEN2 / "config.json").read_text())
        assert base.architecture is not None
        assert (base.architecture.model_type, base.architecture.class_name) == ("qwen2", "Qwen2ForCausalLM")
        assert base.checkpoint.shard_of.keys() == tensors(QWEN2).keys()
        assert base.require_model() is base
        assert open_base(base) is base


def test_a_shard_and_a_file_beside_the_model_are_not_the_model(tmp_path: Path) -> None:
    shard = ROOT / "bases" / "llama-sharded-bf16" / "model-00001-of-00003.safetensors"
    shutil.copytree(QWEN2, tmp_path / "base")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(
        (ROOT / "bases" / "llama-pickled-fp32" / "pytorch_model.bin").read_bytes()
    )
    for path in (shard, tmp_path / "base" / "pytorch_model.bin"):
        base = open_base(path)
        assert base.path == path
        with pytest.raises(FormatError, match="a weights file by itself, not a whole model"):
            base.require_directory()


def test_what_was_read_once_stays(tmp_path: Path) -> None:
    shutil.copytree(QWEN2, tmp_path / "base")
    base = open_base(tmp_path / "base")
    config, architecture, checkpoint = base.config, base.architecture, base.checkpoint
    shutil.rmtree(tmp_path / "base")
    assert (base.config, base.architecture, base.checkpoint) == (config, architecture, checkpoint)
    assert checkpoint.config == config


def test_weights_without_a_configuration(tmp_path: Path) -> None:
    shutil.copy(QWEN2 / "model.safetensors", tmp_path)
    base = Base(tmp_path)
    assert (base.config, base.architecture) == (None, None)
    assert base.checkpoint.read("model.norm.weight").tobytes() == (
        load_file(QWEN2 / "model.safetensors")["model.norm.weight"].tobytes()
    )
    assert base.require_model() is base
    assert base.unknown == "no config.json beside it tells the architecture"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FormatError) as caught:
        Base(tmp_path).require_model()
    assert str(caught.value) == f"{tmp_path}: no model here: neither a config.json nor weights"
    assert caught.value.hint == "Name the base's directory."
    (tmp_path / "config.json").write_text('{"model_type": "nobody"}')
    assert Base(tmp_path).require_model().unknown == "the architecture 'nobody' isn't known"


def test_what_an_adapter_would_call_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path from here on; the repository's name, where it was named by that."""
    monkeypatch.chdir(ROOT)
    assert open_base("bases/qwen2-bf16").name == open_base(QWEN2).name == "bases/qwen2-bf16"
    monkeypatch.chdir(tmp_path)
    assert open_base(QWEN2).name == str(QWEN2.resolve())
    assert Base(QWEN2, "Qwen/Qwen2.5-0.5B").name == "Qwen/Qwen2.5-0.5B"
    with pytest.raises(FormatError, match="no such file or directory"):
        open_base(tmp_path / "nothing")


def test_an_adapter_s_directory_is_no_checkpoint() -> None:
    base = Base(fixture("peft021-layers").adapter)
    with pytest.raises(FormatError, match="no checkpoint here"):
        _ = base.checkpoint
