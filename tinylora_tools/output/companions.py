"""What belongs to a model beside its weights: the files that a merge copies, and the card that it writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import __version__
from ..formats.peft_adapter import PeftAdapter
from ..formats.peft_config import CONFIG_NAME
from ..ops.merge.words import MergePlan

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
        _sync(target)


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file() and not path.name.endswith(_WEIGHTS):
            yield path


def write_file(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk."""
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def model_card(
    base: Path, adapters: Sequence[PeftAdapter], scales: Sequence[float], plan: MergePlan, loss: float
) -> str:
    """A card that says what the merged model was made from. It names no path of the machine."""
    named = next((a.config.base_model for a in adapters if a.config and a.config.base_model), None)
    is_repository = named is not None and named.count("/") == 1 and not named.startswith((".", "/", "~"))
    origin = named if is_repository and named else base.resolve().name
    lines = ["---", "library_name: transformers", "tags:", "- tinylora", "- merge"]
    if is_repository:
        lines += [f"base_model: {named}", "base_model_relation: merge"]
    lines += ["---", "", f"# {origin} with TinyLoRA merged", ""]
    lines += [f"The weights of {origin} with the updates of these TinyLoRA adapters added:", ""]
    for adapter, scale in zip(adapters, scales, strict=True):
        settings = ""
        if adapter.config is not None:
            config = adapter.config
            settings = f": r={config.rank}, u={config.proj_dim}, weight_tying={config.weight_tying:g}"
        trained = sum(info.parameters for info in adapter.vectors.values())
        lines.append(f"- {adapter.path.resolve().name}{settings}, {trained} trained parameters, scale {scale:g}")
    tied = {
        "kept": "",
        "untied": "\nThe base's tied embeddings were untied: the adapter changes one of them only.\n",
        "shared": "\nThe base's tied embeddings share the update of the one that the adapter targets.\n",
    }[plan.tied]
    lines += [
        tied,
        f"Rounding changed the update by {loss:.2g} of its norm. Merged by tinylora-tools {__version__}.",
        "",
    ]
    return "\n".join(lines)
