"""LoRA adapters in files, as PEFT's definition reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinylora_tools.formats.safetensors_file import read_header


def delta_of(lora: Path, module: str) -> np.ndarray[Any, Any]:
    """The update that a LoRA adapter describes, by PEFT's definition, (out, in) or (vocab, dim), in float64."""
    file, config = (
        read_header(lora / "adapter_model.safetensors"),
        json.loads((lora / "adapter_config.json").read_text()),
    )
    r, alpha = config["r"], config["lora_alpha"]
    for end, of in config["rank_pattern"].items():
        if module == end:
            r, alpha = of, config["alpha_pattern"][end]
    prefix = f"base_model.model.{module}."
    if f"{prefix}lora_embedding_A" in file.tensors:
        A, B = (file.read(f"{prefix}lora_embedding_{part}").astype(np.float64) for part in "AB")
        assert len(A) == r
        return alpha / r * (B @ A).T
    A, B = (file.read(f"{prefix}lora_{part}.weight").astype(np.float64) for part in "AB")
    assert len(A) == r
    return alpha / r * B @ A
