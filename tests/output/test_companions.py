"""What comes along beside weights, and what doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import snapshot

from tinylora_tools.output.companions import copy_adapter_files, copy_model_files

COMES_ALONG = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "merges.txt",
    "chat_template.jinja", "modeling_own.py", "sub/preprocessor_config.json", "LICENSE",
)  # fmt: skip
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "tf_model.h5", "flax_model.msgpack", "model.gguf", "onnx/model.onnx", "sub/consolidated.00.pth", "optimizer.pt",
)  # fmt: skip
HIDDEN = (".gitattributes", ".cache/x.json")


def fill(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"the {name}")
    return directory


def test_a_model_s_files_but_no_weights(tmp_path: Path) -> None:
    """Nor its card, nor the configuration of an adapter that was saved into it."""
    left_out = ("README.md", "readme.md", "adapter_config.json")
    base = fill(tmp_path / "base", *COMES_ALONG, *WEIGHTS, *HIDDEN, *left_out)
    (tmp_path / "out").mkdir()
    copy_model_files(base, tmp_path / "out")
    assert snapshot(tmp_path / "out") == {name: f"the {name}".encode() for name in COMES_ALONG}


def test_an_adapter_s_files_its_card_included_but_no_other_adapter(tmp_path: Path) -> None:
    adapter = fill(
        tmp_path / "adapter", "README.md", "adapter_config.json", "tokenizer.json", "adapter_model.safetensors",
        "second/adapter_config.json", "second/README.md", *HIDDEN,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    copy_adapter_files(adapter, tmp_path / "out")
    assert sorted(snapshot(tmp_path / "out")) == ["README.md", "adapter_config.json", "tokenizer.json"]


@pytest.mark.parametrize("copy", [copy_model_files, copy_adapter_files])
def test_what_is_written_already_stays(copy: object, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", "config.json", "tokenizer.json"), tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("the merge's own")
    assert callable(copy)
    copy(source, out)
    assert snapshot(out) == {"config.json": b"the merge's own", "tokenizer.json": b"the tokenizer.json"}


def test_links_are_followed_so_that_the_output_stands_alone(tmp_path: Path) -> None:
    """A Hub cache is made of links to files; links to directories and to nothing are left."""
    blobs, base, out = fill(tmp_path / "blobs", "a1", "d/x.json"), tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    (base / "tokenizer.json").symlink_to(blobs / "a1")
    (base / "lost.json").symlink_to(blobs / "gone")
    (base / "directory").symlink_to(blobs / "d")
    copy_model_files(base, out)
    assert snapshot(out) == {"tokenizer.json": b"the a1"}
    assert not (out / "tokenizer.json").is_symlink()
