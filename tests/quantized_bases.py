"""Small quantized checkpoints, as transformers' own classes save the rest of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from damage import edit_json
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PretrainedConfig

Tensors = dict[str, torch.Tensor]

#: What quantization_config says in the checkpoints of DeepSeek-V3 and Qwen3-FP8.
BLOCKS = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def saved_model(directory: Path, config: PretrainedConfig, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A model with weights of its own, as save_pretrained writes it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(directory)
    return directory


def to_blocks(
    weight: torch.Tensor, block: tuple[int, int] = (128, 128), scale: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in E4M3 and its blocks' scales; the last blocks are cut off by its edges."""
    rows, columns = weight.shape
    height, width = block
    scales = torch.empty(-(-rows // height), -(-columns // width))
    quantized = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = weight[i * height : (i + 1) * height, j * width : (j + 1) * width].float()
            found = part.abs().amax() / 448
            if scale is not torch.float32:
                found = torch.exp2(torch.ceil(torch.log2(found)))
            scales[i, j] = found
            quantized[i * height : (i + 1) * height, j * width : (j + 1) * width] = (part / found).to(
                torch.float8_e4m3fn
            )
    return quantized, scales.to(scale)


def quantized(
    base: Path,
    chosen: Callable[[str], bool],
    settings: Mapping[str, Any] | None = BLOCKS,
    *,
    block: tuple[int, int] = (128, 128),
    scale: torch.dtype = torch.float32,
    scale_name: str = "weight_scale_inv",
) -> Path:
    """The checkpoint with the chosen modules' weights in 8-bit blocks."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".weight") and chosen(name)]:
            owner = name.removesuffix(".weight")
            tensors[name], tensors[f"{owner}.{scale_name}"] = to_blocks(tensors[name], block, scale)

    for shard in base.glob("*.safetensors"):
        tensors = load_file(shard)
        change(tensors)
        save_file(tensors, shard, metadata={"format": "pt"})
    _index(base)
    if settings is not None:
        edit_json(base / "config.json", quantization_config=settings)
    return base


def _index(base: Path) -> None:
    """The index, made again of what the shards hold."""
    path = base / "model.safetensors.index.json"
    if path.exists():
        shards = {shard.name: load_file(shard) for shard in sorted(base.glob("*.safetensors"))}
        size = sum(t.nbytes for tensors in shards.values() for t in tensors.values())
        where = {name: shard for shard, tensors in shards.items() for name in tensors}
        path.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}))
