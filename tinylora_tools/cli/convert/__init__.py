"""`tinylora convert`: a command a form."""

from __future__ import annotations

import click

from ..shell.groups import LazyGroup

#: Form to its module in this package and its one line of help.
FORMS = {
    "lora": ("lora", "One LoRA adapter with the same update, for serving."),
    "gguf": ("gguf", "One LoRA adapter as GGUF, for llama.cpp and Ollama."),
    "peft": ("peft", "PEFT's files, anew."),
    "packed": ("packed", "Less than a kilobyte, restored from the base."),
}


@click.group("convert", cls=LazyGroup, members=FORMS, package=__package__)
def command() -> None:
    """Convert TinyLoRA adapters into other forms.

    Each form reads PEFT's adapters, packed ones, and those of six other projects.

    \b
    Examples:
      tinylora convert lora adapter -o lora
      tinylora convert gguf adapter -o adapter.gguf
      tinylora convert packed adapter -o packed.safetensors --base Qwen2.5-0.5B
    """
