"""Small quantized checkpoints, as transformers' own classes save the rest of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from damage import edit_json
from peft import TinyLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.integrations.finegrained_fp8 import FP8Experts, FP8Linear
from transformers.quantizers import AutoHfQuantizer

Tensors = dict[str, torch.Tensor]

#: What quantization_config says in the checkpoints of DeepSeek-V3 and Qwen3-FP8.
BLOCKS = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def saved_model(directory: Path, config: PretrainedConfig, shard: str = "1GB") -> Path:
    """A model with weights of its own in bfloat16, as save_pretrained writes it, in shards of this size at most."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory, max_shard_size=shard)
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


def loaded(base: Path, dtype: str = "auto") -> Any:
    """The model as transformers loads it here, where 8-bit and 4-bit weights are dequantized. (transformers 5.23
    leaves weights that aren't quantized in their own dtype.)"""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    return model if dtype == "auto" else model.to(getattr(torch, dtype))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 51).reshape(4, 12)).logits.double()
    return found


def adapted(base: Path, directory: Path, targets: Any, *, dtype: str = "auto", **settings: Any) -> Any:
    """The model with an adapter that isn't zero, which is saved in the directory."""
    torch.manual_seed(1)
    given = {"r": 2, "u": 5, "init_weights": "uniform", "init_v_bound": 1.0, **settings}
    model = get_peft_model(loaded(base, dtype), TinyLoraConfig(target_modules=targets, **given))
    model.save_pretrained(directory)
    return model.eval()


def in_eight_bits(directory: Path) -> set[str]:
    """The modules that transformers takes for quantized, by the settings in config.json."""
    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
    quantizer._process_model_before_weight_loading(model)
    return {name for name, module in model.named_modules() if isinstance(module, FP8Linear | FP8Experts)}


def stored(directory: Path) -> Tensors:
    """Every tensor of a checkpoint."""
    return {name: t for shard in directory.glob("*.safetensors") for name, t in load_file(shard).items()}


def unlisted(base: Path, directory: Path) -> Path:
    """The same base of a family that nobody knows, whose modules are those that its tensors are called by."""
    shutil.copytree(base, directory)
    edit_json(directory / "config.json", model_type="unlisted", architectures=["UnlistedForCausalLM"])
    return directory
