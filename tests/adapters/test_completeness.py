"""Modules that a file lacks, though its configuration targets them: as PEFT itself leaves them out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
from damage import edit_json
from edited_files import WEIGHTS, Tensors, edited_copy
from fixture_data import FIXTURES, Fixture, fixture
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tinylora_tools.adapters import soundness
from tinylora_tools.adapters.completeness import incomplete, missing_modules, missing_parameters
from tinylora_tools.adapters.load import Adapter
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.formats.peft.expressions import SlowExpressionError
from tinylora_tools.ops.merge.run import merge

LAYERS = fixture("peft021-layers")
NAMES = [row["name"] for row in LAYERS.modules]


def opened(path: Path, base: Path = LAYERS.base) -> Adapter:
    return Adapter(read_adapter(path), base=Base(base))


def without(*modules: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if any(f".{module}.tinylora" in key for module in modules)]:
            del tensors[key]

    return change


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_what_peft_wrote_is_whole(case: Fixture) -> None:
    assert missing_modules(opened(case.adapter, case.base)) == []
    assert missing_parameters(opened(case.adapter, case.base)) == []


@pytest.mark.filterwarnings("ignore")
def test_what_peft_leaves_out_beside_an_adapter_called_like_a_layer(tmp_path: Path) -> None:
    """With an adapter called "0" in the model, PEFT saves nothing of layer 0 of the first one."""
    base = fixture("peft020-tiny").base
    config = {"r": 1, "u": 2, "target_modules": ["q_proj", "o_proj"], "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.TinyLoraConfig(**config))
    model.add_adapter("0", peft.TinyLoraConfig(**config))
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    saved = {key.split(".tinylora_A")[0].split(".", 2)[2] for key in load_file(tmp_path / WEIGHTS) if "_A" in key}
    wanted = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qo"]
    left_out = [name for name in wanted if name not in saved]
    assert left_out == wanted[:2]
    assert missing_modules(opened(tmp_path, base)) == left_out


def test_in_the_model_s_order_and_an_error_to_who_applies_it(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")  # one vector for all, so that the file doesn't contradict itself besides
    names = [row["name"] for row in case.modules]
    adapter = opened(edited_copy(case.name, tmp_path / "a", without(names[40], names[3])), case.base)
    assert missing_modules(adapter) == [names[3], names[40]]
    with pytest.raises(MismatchError, match=f"the file lacks {names[3]} and 1 more, which its configuration targets"):
        soundness.check(adapter)


def test_where_nothing_tells_what_is_targeted_nothing_is_missing(tmp_path: Path) -> None:
    """No base, one without weights or of an architecture that nobody knows, or no configuration of the adapter."""
    path = edited_copy(
        LAYERS.name,
        tmp_path / "a",
        without(NAMES[1]),
        base_model_name_or_path=None,
    )
    config = json.loads((LAYERS.base / "config.json").read_text())
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    (tmp_path / "nobody").mkdir()
    (tmp_path / "nobody" / "config.json").write_text(
        json.dumps({**config, "model_type": "nobody", "architectures": []})
    )
    (tmp_path / "nobody" / "model.safetensors").symlink_to(LAYERS.base / "model.safetensors")
    assert missing_modules(Adapter(read_adapter(path))) == []
    assert missing_modules(opened(path, tmp_path / "bare")) == []
    assert missing_modules(opened(path, tmp_path / "nobody")) == []
    assert missing_modules(opened(path)) == [NAMES[1]]
    (path / "adapter_config.json").unlink()
    assert missing_modules(opened(path)) == []


@pytest.mark.filterwarnings("ignore")
def test_a_layer_that_transformers_does_not_load_is_not_missing(tmp_path: Path) -> None:
    """As DeepSeek-V3's for multi-token prediction, which comes after the num_hidden_layers of the model."""
    base = tmp_path / "base"
    shutil.copytree(fixture("peft020-tiny").base, base)
    config = json.loads((base / "config.json").read_text())
    layers = config["num_hidden_layers"] - 1
    config |= {"num_hidden_layers": layers} | {k: v[:layers] for k, v in config.items() if k == "layer_types"}
    (base / "config.json").write_text(json.dumps(config))
    chosen = peft.TinyLoraConfig(r=1, u=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), chosen).save_pretrained(tmp_path / "adapter")
    found = opened(tmp_path / "adapter", base)
    assert len(found.modules) == layers
    assert missing_modules(found) == []


@pytest.mark.filterwarnings("ignore")
def test_a_head_that_was_trained_and_is_not_in_the_file(tmp_path: Path) -> None:
    """PEFT leaves it out beside an adapter that is called as the head is."""
    base = fixture("peft020-bert-bias").base
    config = {"r": 1, "u": 2, "target_modules": ["query"], "task_type": "SEQ_CLS"}
    model = peft.get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), peft.TinyLoraConfig(**config))
    model.save_pretrained(tmp_path / "whole")
    assert missing_parameters(opened(tmp_path / "whole", base)) == []
    lacking = edited_copy(tmp_path / "whole", tmp_path / "a", lambda t: t.pop("base_model.model.classifier.weight"))
    assert missing_parameters(opened(lacking, base)) == ["classifier.weight"]
    with pytest.raises(MismatchError, match=r"the file lacks classifier\.weight, which its configuration has trained"):
        soundness.check(opened(lacking, base))


def test_the_other_adapter_s_name_is_guessed(tmp_path: Path) -> None:
    """From the part that all that is missing has in its name, and nothing else."""
    case = fixture("peft021-13-numbers")
    gone = without(*(name for name in case.modules_by_name if "o_proj" in name))
    adapter = opened(edited_copy(case.name, tmp_path / "a", gone), case.base)
    found = incomplete(adapter)
    assert found is not None
    assert "is called like a part of their names, such as 'o_proj'. What is missing follows" in str(found.hint)
    assert f"tinylora_tools.to_peft({adapter.path}, WHOLE, complete=True)" in str(found.hint)


def test_what_an_expression_targets_is_asked_until_it_takes_too_long(
    copied: Callable[[str], tuple[Path, Path]],
) -> None:
    """Not knowing what is targeted isn't knowing that nothing is missing."""
    adapter, base = copied("peft020-tiny")
    edit_json(adapter / "adapter_config.json", target_modules="(.+)+X")
    with pytest.raises(SlowExpressionError, match="takes too long to match"):
        merge(adapter, adapter.parent / "out", base)
    assert not (adapter.parent / "out").exists()
