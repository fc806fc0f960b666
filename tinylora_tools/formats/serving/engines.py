"""What programs that serve models take of a LoRA adapter, and where they read the head from.

`data/engines.json` has it, which scripts/make_engines.py reads from the source in their packages on PyPI, a release of
each; that of llama.cpp is llama-cpp-python's.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

EngineName = Literal["vllm", "sglang", "llama.cpp", "mlx"]
ENGINES: tuple[EngineName, ...] = ("vllm", "sglang", "llama.cpp", "mlx")

_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "llama.cpp": "llama.cpp", "mlx": "mlx-lm"}


@dataclass(frozen=True, slots=True)
class Engine:
    """A program as a release of it is.

    Attributes
    ----------
    title : str
        As people write it.
    release : str
        Of its package.
    facts : Mapping
        What its own module of `ops/convert/` reads.
    models : Mapping
        By transformers' class, of mlx-lm by the type of model; `tied` says that the head is the embedding, whatever
        config.json says, and `modules` names layers that may have LoRA (None where the class has none).
    """

    title: str
    release: str
    facts: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]

    def model(self, class_name: str, model_type: str) -> Mapping[str, Any] | None:
        """What it has for a class of models; None where it has none of its own."""
        return self.models.get(model_type if self.title == _TITLES["mlx"] else class_name)


@lru_cache(maxsize=1)
def engines() -> Mapping[EngineName, Engine]:
    """All of them."""
    text = (Path(__file__).parents[2] / "data" / "engines.json").read_text("utf-8")
    held = json.loads(text)
    return {name: Engine(_TITLES[name], held[name]["release"], held[name], held[name]["models"]) for name in ENGINES}


def always_tied(class_name: str, model_type: str) -> tuple[list[str], list[str]]:
    """Programs that read a class's head from its embedding whatever config.json says, and those that don't."""
    known = [(one, one.model(class_name, model_type)) for one in engines().values()]
    tied = [one.title for one, model in known if model is not None and model["tied"]]
    return tied, [one.title for one, model in known if model is not None and not model["tied"]]


def commands(name: str, output: Path, base: str, rank: int) -> list[str]:
    """What is typed next, to have an adapter served."""
    at, model, called = shlex.quote(str(output)), shlex.quote(base), shlex.quote(output.name)
    if name == "vllm":
        limit = next((one for one in engines()["vllm"].facts["ranks"] if one >= rank), rank)
        return [f"vllm serve {model} --enable-lora --max-lora-rank {limit} --lora-modules {called}={at}"]
    if name == "sglang":
        return [f"python -m sglang.launch_server --model-path {model} --enable-lora --lora-paths {called}={at}"]
    if name == "llama.cpp":
        gguf = shlex.quote(f"{output}.gguf")
        return [
            f"python convert_lora_to_gguf.py {at} --base {model} --outfile {gguf}",
            f"llama-server -m BASE.gguf --lora {gguf}",
        ]
    if name == "gguf":
        return [f"llama-server -m BASE.gguf --lora {at}"]
    if name == "mlx":
        return [f"mlx_lm.generate --model {model} --adapter-path {at} --prompt ..."]
    return [f"PeftModel.from_pretrained(model, {str(output)!r})"]
