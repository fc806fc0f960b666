"""What comes along beside weights: the files of a model, or of an adapter, that are copied."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import UnsupportedError
from ..formats.peft.config import CONFIG_NAME
from ..formats.tokenizer_files import TokenizerFiles
from ..inputs import open_input
from .manifest import NAME as MANIFEST_NAME

#: Endings of files that hold weights, in whatever framework's format, or indices of them.
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".onnx_data", ".ot",
    ".npz", ".tflite", ".mlmodel", ".pkl", ".distcp", ".index.json",
)  # fmt: skip

#: Files and directories, at any depth, that a training leaves beside what it saves: checkpoints and their states, logs,
#: results. Of transformers' Trainer, accelerate, DeepSpeed, Lightning, TensorBoard, Weights & Biases and MLflow.
_LITTER = re.compile(
    r"(tmp-|last-|epoch-)?checkpoint([-_]\d+)?|global_step\d+|(pytorch_model|optimizer)(_fsdp)?_\d+|step[-_]\d+"
    r"|runs|logs|wandb|mlruns|tensorboard|lightning_logs|__pycache__"
    r"|(optimizer|scheduler|scaler|sampler|dataloader|rng_state|random_states)(_\d+)?\.\w+|trainer_state\.json"
    r"|training_args\.(json|yaml)|(all|train|eval|test|predict)_results\.json|trainer_log\.jsonl"
    r"|zero_to_fp32\.py|latest|events\.out\.tfevents\..*|.*\.tfevents"
)

#: What a merge leaves out beside weights: the card, which it writes itself, the manifest of a base that is a merged
#: model, and the configuration of an adapter that was saved into the base's directory: transformers would load the
#: merged model with that adapter.
_NOT_THE_MODELS = {"readme.md", MANIFEST_NAME, CONFIG_NAME}


def model_files(base: Path, tokenizer: TokenizerFiles | None = None) -> dict[str, Path]:
    """What comes along from a base, by its name in the output: config, tokenizer, chat templates, remote code and the
    like; no weights, cards, hidden files, configurations of adapters, or what a training left there.

    With another tokenizer its files come in place of the base's; with one of chat templates alone, in place of those.
    """
    files = {path.relative_to(base).as_posix(): path for path in sorted(_files(base))}
    files = {name: path for name, path in files.items() if path.name.lower() not in _NOT_THE_MODELS}
    if tokenizer is None:
        return files
    return {name: path for name, path in files.items() if not tokenizer.replaces(name)} | dict(tokenizer.files)


def adapter_files(adapter: Path) -> dict[str, Path]:
    """What stands beside an adapter's weights, its card included; not the adapters in its sub-directories."""
    return {path.name: path for path in sorted(_files(adapter)) if path.parent == adapter}


def publishable(directory: Path) -> dict[str, Path]:
    """All of a model or an adapter that may be published, by its name: its weights too, but no hidden files, nor what a
    training left there.

    Raises
    ------
    UnsupportedError
        For a link that leads out of the directory.
    """
    files = {path.relative_to(directory).as_posix(): path for path in sorted(_files(directory, weights=True))}
    return {name: _real_file(path, directory) for name, path in files.items()}


def copy_model_files(base: Path, output: Path, tokenizer: TokenizerFiles | None = None) -> None:
    """Copy what `model_files` says.

    Raises
    ------
    UnsupportedError
        For a link that leads out of the directory.
    """
    for name, path in model_files(base, tokenizer).items():
        _copy(path, base if path.is_relative_to(base) else path.parent, output / name)


def copy_adapter_files(adapter: Path, output: Path) -> None:
    """Copy what `adapter_files` says, as `copy_model_files` does."""
    for name, path in adapter_files(adapter).items():
        _copy(path, adapter, output / name)


def _copy(path: Path, directory: Path, target: Path) -> None:
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


def _files(directory: Path, *, weights: bool = False) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith(".") or _LITTER.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, weights=weights)
        elif (path.is_file() or path.is_symlink()) and (weights or not path.name.endswith(_WEIGHTS)):
            yield path
