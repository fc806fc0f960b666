"""What comes along beside weights: the files of a model, or of an adapter, that are copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import UnsupportedError
from ..formats.peft_config import CONFIG_NAME
from ..inputs import open_input
from .manifest import NAME as MANIFEST_NAME

#: Endings of files that hold weights, in whatever framework's format, or indices of them.
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".onnx_data", ".ot",
    ".npz", ".tflite", ".mlmodel", ".pkl", ".index.json",
)  # fmt: skip

#: What a merge leaves out beside weights: the card, which it writes itself, the manifest of a base that is a merged
#: model, and the configuration of an adapter that was saved into the base's directory: transformers would load the
#: merged model with that adapter.
_NOT_THE_MODELS = {"readme.md", MANIFEST_NAME, CONFIG_NAME}


def copy_model_files(base: Path, output: Path) -> None:
    """Copy config, tokenizer, chat templates, remote code and the like: all but weights, cards, hidden files and
    the configurations of adapters; a file that is in the output already stays.

    Raises
    ------
    UnsupportedError
        For a link that leads out of the directory.
    """
    for path in sorted(_files(base)):
        if path.name.lower() not in _NOT_THE_MODELS:
            _copy(path, base, output)


def copy_adapter_files(adapter: Path, output: Path) -> None:
    """Copy what stands beside an adapter's weights, its card included; not the adapters in its sub-directories; raises
    as `copy_model_files`."""
    for path in sorted(_files(adapter)):
        if path.parent == adapter:
            _copy(path, adapter, output)


def _copy(path: Path, directory: Path, output: Path) -> None:
    target = output / path.relative_to(directory)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_input(_real_file(path, directory)) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)


def _real_file(path: Path, directory: Path) -> Path:
    """Where a companion's bytes are: in the directory itself, or, of a repository in the Hub's cache, among its blobs.

    What is copied may be published, and a link could bring along any file of whoever runs this: `LICENSE` that leads to
    /proc/self/environ, with a token for the Hub in it.

    Raises
    ------
    UnsupportedError
        For a link to anything else.
    """
    real, inside = Path(os.path.realpath(path)), Path(os.path.realpath(directory))
    snapshots = next((parent for parent in (inside, *inside.parents) if parent.name == "snapshots"), None)
    blobs = None if snapshots is None else snapshots.parent / "blobs"  # models--owner--name/{blobs,snapshots/REVISION}
    if real.is_file() and (inside in real.parents or (blobs is not None and real.parent == blobs)):
        return real
    raise UnsupportedError(
        f"is a link to {path.readlink() if path.is_symlink() else real}, which is no file in {directory}",
        where=path,
        hint="Put the file itself there, if it belongs to the model; else remove the link.",
    )


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif (path.is_file() or path.is_symlink()) and not path.name.endswith(_WEIGHTS):
            yield path
