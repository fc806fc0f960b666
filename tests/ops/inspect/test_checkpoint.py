"""What inspect says of a checkpoint: its counts add up, its kinds of layers are transformers' own."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from damage import edit, edit_json
from fixture_data import ROOT

from tinylora_tools.bases.base import Base
from tinylora_tools.ops.inspect.checkpoint import CheckpointReport, inspect_checkpoint
from tinylora_tools.ops.inspect.run import inspect


def test_checkpoints() -> None:
    for base in sorted((ROOT / "bases").iterdir()):
        report = inspect(base)
        assert isinstance(report, CheckpointReport)
        assert report.parameters == sum(count.parameters for count in report.dtypes.values())
        assert report.parameters == sum(count.parameters for count in report.layers.values())
        assert report.tensors == sum(shard.tensors for shard in report.shards)
        assert report.file_bytes == sum(shard.bytes for shard in report.shards)
        assert report.warnings == []
    tied = inspect(ROOT / "bases" / "qwen2-tied-bf16")
    assert isinstance(tied, CheckpointReport)
    assert sorted(tied.tied[0]) == ["lm_head.weight", "model.embed_tokens.weight"]
    assert len(inspect(ROOT / "bases" / "llama-sharded-bf16").shards) > 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["qwen2-bf16", "gpt2-fp32", "bert-fp32", "t5-fp32"])
@pytest.mark.filterwarnings("ignore")
def test_kinds_of_layers_are_transformers_own(name: str) -> None:
    """Parameters by the type of the module that transformers makes of them; ties count once, as in the file."""
    base = ROOT / "bases" / name
    config = transformers.AutoConfig.from_pretrained(base)
    assert config.architectures is not None
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config)
    report = inspect_checkpoint(Base(base))
    kind_of = {"Embedding": "embedding", "Linear": "linear", "Conv1D": "linear"}
    kinds, seen = Counter[str](), set[int]()
    for module in model.modules():
        for parameter, values in module.named_parameters(recurse=False):
            if id(values) not in seen:
                kinds["bias" if parameter == "bias" else kind_of.get(type(module).__name__, "other")] += values.numel()
            seen.add(id(values))
    found = {kind: count.parameters for kind, count in report.layers.items()}
    assert found["embedding"] == kinds["embedding"]
    assert found.get("linear", 0) + found.get("head", 0) == kinds["linear"]
    assert sum(found.values()) == sum(kinds.values())


def test_what_to_watch_out_for(copied: Callable[[str], tuple[Path, Path]]) -> None:
    _, base = copied("peft020-seed-only")
    shard = sorted(base.glob("*.safetensors"))[0]
    edit(shard, lambda tensors: tensors.update(extra=np.zeros(3, np.float32)))
    edit_json(base / "config.json", quantization_config={"bits": 4})
    report = inspect_checkpoint(Base(base), ["first"])
    assert report.warnings == ["first", "the index doesn't list 1 tensors that the shards hold, such as extra"]
    assert report.quantization == "unknown"
    assert "extra" not in {name for group in report.tied for name in group}
    edit_json(base / "config.json", quantization_config={"quant_method": "awq"}, architectures=None)
    again = inspect_checkpoint(Base(base))
    assert (again.quantization, again.architecture) == ("awq", "llama")


@pytest.mark.parametrize(
    ("architectures", "said"), [([2], "qwen2"), ([None], "qwen2"), ([["a"]], "qwen2"), ([], "qwen2"), (7, "qwen2")]
)
def test_a_class_is_named_by_text(architectures: object, said: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(ROOT / "bases" / "qwen2-bf16", base)
    edit_json(base / "config.json", architectures=architectures)
    assert inspect_checkpoint(Base(base)).architecture == said
    edit_json(base / "config.json", architectures=architectures, model_type=["qwen2"])
    assert inspect_checkpoint(Base(base)).architecture is None
