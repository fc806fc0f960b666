"""What comes along beside weights: the files of a model, or of an adapter, that are copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ..formats.peft_config import CONFIG_NAME

#: Endings of files that hold weights, in whatever framework's format, or indices of them.
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".onnx_data", ".ot",
    ".npz", ".tflite", ".mlmodel", ".pkl", ".index.json",
)  # fmt: skip

#: What a merge leaves out beside weights: the card, which it writes itself, and the configuration of an adapter that
#: was saved into the base's directory: transformers would load the merged model with that adapter.
_NOT_THE_MODELS = {"readme.md", CONFIG_NAME}


def copy_model_files(base: Path, output: Path) -> None:
    """Copy config, tokenizer, chat templates, remote code and the like: all but weights, cards, hidden files and
    the configurations of adapters.

    Links (a Hub cache is made of them) are followed, so that the output stands alone; a file that is in the output
    already stays.
    """
    for path in sorted(_files(base)):
        if path.name.lower() not in _NOT_THE_MODELS:
            _copy(path, output / path.relative_to(base))


def copy_adapter_files(adapter: Path, output: Path) -> None:
    """Copy what stands beside an adapter's weights, its card included; not the adapters in its sub-directories."""
    for path in sorted(_files(adapter)):
        if path.parent == adapter:
            _copy(path, output / path.name)


def _copy(path: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file() and not path.name.endswith(_WEIGHTS):
            yield path
