"""Cards of adapters, which say what they are of, how they were made and how they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.json_file import read_object
from ...formats.packed import Packed
from ...formats.peft.config import CONFIG_NAME, TinyLoraConfig
from ...formats.serving.mlx_adapter import WEIGHTS_NAME as MLX_WEIGHTS
from ...sources.locate import locate_base
from ...sources.model_card import is_repository, model_card, one_line, said_of_base


def card_for(path: Path, content: Packed | Path, name: str, base_model: str | None) -> str:
    """A card for an adapter without one.

    Parameters
    ----------
    path : Path
        A directory, or a file that is pushed by itself.
    content : Packed or Path
        What is packed; or the same path.
    name : str
        The repository's.
    base_model : str, optional
        The base, where the adapter doesn't name it.
    """
    if isinstance(content, Packed):
        what, tags, library = _packed(content, name), ["tinylora"], "tinylora-tools"
        config: Mapping[str, Any] = content.config.to_json()
    elif (gguf := gguf_of(path)) is not None:
        what, tags, library, config = _gguf(gguf, name), ["lora", "gguf", "llama.cpp"], None, {}
    else:
        config = read_object(path / CONFIG_NAME) if (path / CONFIG_NAME).is_file() else {}
        what, tags, library = _directory(path, config, name)
    said, revision = config.get("base_model_name_or_path"), config.get("revision")
    named = base_model or _on_the_hub(said)
    at_hand = locate_base(named, revision, path if path.is_dir() else path.parent) if named else None
    of = (
        f"{named}{f' at {one_line(str(revision))}' if revision else ''}"
        if named
        else "a base model that it doesn't name"
    )
    title = one_line(name.rpartition("/")[2])
    text = f"# {title}\n\n{what.replace('{base}', of)}\n\nPublished by tinylora-tools {__version__}.\n"
    inherited = said_of_base(at_hand) if at_hand else {}
    return model_card(text, base_model=named, tags=tags, relation="adapter", library=library, inherited=inherited)


def base_named(path: Path, content: Packed | Path) -> str | None:
    """The repository that an adapter names as its base."""
    return _on_the_hub(base_said(path, content))


def base_said(path: Path, content: Packed | Path) -> str | None:
    """What an adapter calls its base."""
    config = content.config.to_json() if isinstance(content, Packed) else {}
    if path.is_dir() and (path / CONFIG_NAME).is_file():
        config = read_object(path / CONFIG_NAME)
    said = config.get("base_model_name_or_path")
    return said if isinstance(said, str) else None


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that a path is, or that a directory has and no adapter's configuration; None elsewhere."""
    if path.is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    return found[0] if found and not (path / CONFIG_NAME).is_file() else None


def _on_the_hub(said: object) -> str | None:
    """A base's name that is a repository's, and no path that is here."""
    return said if isinstance(said, str) and is_repository(said) and not Path(said).exists() else None


def _settings(config: TinyLoraConfig) -> str:
    by = f", PEFT {one_line(config.peft_version)}" if config.peft_version else ""
    return f"r={config.r}, u={config.u}, weight_tying={config.weight_tying:g}, seed {config.projection_seed}{by}"


def _packed(packed: Packed, name: str) -> str:
    numbers = sum(v.size for v in packed.vectors.values())
    return (
        f"A TinyLoRA adapter of {{base}}, packed: {numbers:,} trained numbers, and what it takes to make the rest "
        f"again from the base ({_settings(packed.config)}).\n\n"
        f"```sh\ntinylora merge hf://{name} -o merged          # into its base\n"
        f"tinylora convert peft hf://{name} -o adapter  # for PeftModel.from_pretrained\n```"
    )


def _gguf(path: Path, name: str) -> str:
    file = one_line(path.name)
    return (
        "A LoRA adapter of {base}, which llama.cpp and Ollama load, with the exact update of a TinyLoRA adapter.\n\n"
        f"```sh\nhf download {name} {file} --local-dir .\nllama-server -m BASE.gguf --lora {file}\n```"
    )


def _directory(path: Path, config: Mapping[str, Any], name: str) -> tuple[str, list[str], str]:
    exact = "with the exact update of a TinyLoRA adapter"
    if (path / MLX_WEIGHTS).is_file():
        use = f"```sh\nhf download {name} --local-dir adapter\nmlx_lm.generate --model BASE --adapter-path adapter\n```"
        return f"A LoRA adapter of {{base}} for mlx-lm, {exact}.\n\n{use}", ["lora", "tinylora", "mlx"], "mlx"
    use = f'```python\nmodel = PeftModel.from_pretrained(model, "{name}")\n```'
    if config.get("peft_type") == "LORA":
        return f"A LoRA adapter of {{base}}, {exact}: rank {config.get('r')}.\n\n{use}", ["lora", "tinylora"], "peft"
    said = f" ({_settings(TinyLoraConfig.from_json(config, path / CONFIG_NAME))})" if config else ""
    return f"A TinyLoRA adapter of {{base}}{said}.\n\n{use}", ["tinylora"], "peft"
