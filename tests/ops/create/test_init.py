"""New adapters against those of the installed PEFT, which trains them."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from fixture_data import ROOT, fixture
from safetensors.torch import load_file, save_file

from tinylora_tools.errors import MismatchError, OutputError, TinyLoraError, UndeterminedError
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.create.count import count
from tinylora_tools.ops.create.init import init


def settings_of(config: dict[str, Any]) -> TinyLoraConfig:
    """The configuration that an adapter_config.json says."""
    return TinyLoraConfig.from_json({"peft_type": "TINYLORA", **config}, Path("adapter_config.json"))


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "defaults": ("qwen2-bf16", "AutoModelForCausalLM", {"task_type": "CAUSAL_LM"}),
    "all-linear": (
        "llama-sharded-bf16",
        "AutoModelForCausalLM",
        {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "u": 13, "weight_tying": 1.0},
    ),
    "expression": (
        "llama-fp32",
        "AutoModelForCausalLM",
        {
            "task_type": "CAUSAL_LM",
            "target_modules": r".*\.(self_attn\.[qk]_proj|mlp\.up_proj)",
            "r": 4,
            "weight_tying": 0.3,
        },
    ),
    "layers": (
        "qwen2-bf16",
        "AutoModelForCausalLM",
        {
            "target_modules": ["q_proj", "down_proj"],
            "layers_to_transform": [1, 10],
            "layers_pattern": ["layers"],
            "u": 3,
        },
    ),
    "all linear of a layer": (
        "qwen2-bf16",
        "AutoModelForCausalLM",
        {"target_modules": "all-linear", "layers_to_transform": [0], "u": 3},
    ),
    "all of few, whatever the layer": (  # PEFT puts the full names of up to 19 into the list, and those count anywhere
        "llama-fp32",
        "AutoModelForCausalLM",
        {"target_modules": "all-linear", "layers_to_transform": [0], "u": 3},
    ),
    "full names count in every layer": (
        "llama-fp32",
        "AutoModelForCausalLM",
        {
            "target_modules": ["model.layers.1.self_attn.q_proj", "v_proj", "lm_head"],
            "layers_to_transform": [0],
            "u": 3,
        },
    ),
    "many names": (
        "qwen2-bf16",
        "AutoModelForCausalLM",
        {"target_modules": [f"layers.{i}.self_attn.{p}_proj" for i in range(12) for p in "qk"], "u": 3},
    ),
    "embedding, all biases": (
        "qwen2-tied-bf16",
        "AutoModelForCausalLM",
        {"task_type": "CAUSAL_LM", "target_modules": ["embed_tokens", "q_proj"], "bias": "all", "u": 3},
    ),
    "head": ("llama-fp16", "AutoModelForCausalLM", {"target_modules": ["lm_head", "o_proj"], "r": 1, "u": 1}),
    "own biases": ("bert-fp32", "AutoModelForSequenceClassification", {"bias": "tinylora_only", "u": 2}),
    "classifier": (
        "bert-fp32",
        "AutoModelForSequenceClassification",
        {"task_type": "SEQ_CLS", "target_modules": "all-linear", "u": 2},
    ),
    "modules to save": (
        "llama-fp32",
        "AutoModelForCausalLM",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "save_projection": False},
    ),
    "Conv1D": ("gpt2-fp32", "AutoModelForCausalLM", {"target_modules": ["c_attn", "c_proj", "wte"], "u": 3}),
    "a bare base": ("gpt2-bare-fp32", "GPT2Model", {"target_modules": ["c_fc"], "u": 3}),
    "encoder-decoder": (
        "t5-fp32",
        "AutoModelForSeq2SeqLM",
        {"task_type": "SEQ_2_SEQ_LM", "target_modules": "all-linear"},
    ),
    "mixed dtypes": ("t5-fp16", "AutoModelForSeq2SeqLM", {"target_modules": ["q", "wo"], "u": 5}),
    "renamed modules": ("vit-fp32", "AutoModelForImageClassification", {"target_modules": "all-linear", "u": 2}),
    "rank above the size": ("neox-bf16", "AutoModelForCausalLM", {"r": 64, "u": 2}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_init_writes_what_peft_writes_and_peft_trains_it(name: str, tmp_path: Path) -> None:
    base, auto, arguments = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_pretrained(ROOT / "bases" / base, dtype="auto")
    theirs = peft.get_peft_model(model, peft.TinyLoraConfig(**arguments))
    theirs.save_pretrained(tmp_path / "theirs")
    init(ROOT / "bases" / base, tmp_path / "ours", settings_of({**DEFAULTS, **arguments}))

    ours_file, theirs_file = (read_header(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    mine = {name: (info.dtype, info.shape) for name, info in ours_file.tensors.items()}
    peft_s = {name: (info.dtype, info.shape) for name, info in theirs_file.tensors.items()}
    assert mine == peft_s
    assert ours_file.size == theirs_file.size
    for key in mine:  # of a T5 in fp16, transformers widens wo, and with it P
        if not key.endswith(("tinylora_A", "tinylora_B")):
            assert np.array_equal(ours_file.read(key), theirs_file.read(key)), key
    config, other = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    assert config.keys() == other.keys()
    for key in config.keys() - {"auto_mapping", "target_modules", "base_model_name_or_path"}:
        assert config[key] == other[key], key
    targets, peft_s_targets = (given["target_modules"] for given in (config, other))
    assert targets == peft_s_targets if isinstance(targets, str) else set(targets) == set(peft_s_targets)

    fresh = getattr(transformers, auto).from_pretrained(ROOT / "bases" / base, dtype="auto")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "ours", is_trainable=True)
    said = [str(w.message) for w in caught]
    assert not [text for text in said if re.search("missing|unexpected", text)]
    state = {k: v for k, v in loaded.state_dict().items() if "tinylora_" in k}
    assert state.keys() == {k for k in theirs.state_dict() if "tinylora_" in k}

    for trained in (theirs, loaded):
        with torch.no_grad():
            for key, parameter in sorted(trained.named_parameters()):
                if "tinylora_v" in key:
                    parameter.copy_(torch.linspace(-0.05, 0.05, parameter.numel()))
    align_signs(theirs, loaded)
    for part in inputs_of(loaded):
        with torch.no_grad():
            one, two = loaded(**part)[0].float(), theirs(**part)[0].float()
        assert torch.allclose(one, two, atol=2e-2 if "16" in base else 1e-4), float((one - two).abs().max())
        loaded.train()
        loaded(**part)[0].float().sum().backward()
    gradients = [p.grad for key, p in loaded.named_parameters() if "tinylora_v" in key]
    assert gradients and all(g is not None and torch.isfinite(g).all() for g in gradients)


DEFAULTS: dict[str, Any] = {
    "r": 2, "u": 64, "weight_tying": 0.0, "projection_seed": 42, "save_projection": True, "bias": "none",
    "target_modules": None, "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None,
    "task_type": None,
}  # fmt: skip


def align_signs(theirs: Any, ours: Any) -> None:
    """Give PEFT's factors the signs of ours: a library's SVD chooses them, and with them what v means."""
    mine = dict(ours.named_buffers())
    for key, A in dict(theirs.named_buffers()).items():
        if "tinylora_A" in key:
            sign = torch.sign((A * mine[key]).sum(1))
            A.mul_(sign[:, None])
            dict(theirs.named_buffers())[key.replace("tinylora_A", "tinylora_B")].mul_(sign)


def inputs_of(model: Any) -> list[dict[str, torch.Tensor]]:
    if "vit" in model.config.model_type:
        return [{"pixel_values": torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)}]
    ids = torch.arange(8).reshape(1, 8)
    return [{"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}]


def test_uniform_v_comes_from_a_recorded_seed(tmp_path: Path) -> None:
    base = fixture("peft021-13-numbers").base
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        init(base, tmp_path / name, TinyLoraConfig(init_weights="uniform", init_v_bound=0.1), init_seed=seed)
    files = [read_header(tmp_path / name / "adapter_model.safetensors") for name in "abc"]
    assert files[0].metadata == {"format": "pt", "init_seed": "5"}
    v = [file.read("base_model.tinylora_v.3") for file in files]
    assert np.array_equal(v[0], v[1])
    assert not np.array_equal(v[0], v[2])
    assert 0.05 < np.abs(v[0]).max() <= 0.1
    assert not np.array_equal(v[0], files[0].read("base_model.tinylora_v.4"))


@pytest.mark.filterwarnings("ignore")
def test_biases_that_are_tied(tmp_path: Path) -> None:
    """PEFT saves them under both names; each of its trained parameters counts once."""
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "base")
    arguments = {"target_modules": "all-linear", "bias": "all", "u": 2}
    theirs = peft.get_peft_model(model, peft.TinyLoraConfig(**arguments))
    theirs.save_pretrained(tmp_path / "theirs")
    settings = settings_of({**DEFAULTS, **arguments})
    init(tmp_path / "base", tmp_path / "ours", settings)
    ours_file, theirs_file = (read_header(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert ours_file.tensors.keys() == theirs_file.tensors.keys()
    trained = {name: p.numel() for name, p in theirs.named_parameters() if p.requires_grad}
    found = count(tmp_path / "base", settings)
    assert found.trainable_parameters == sum(n for name, n in trained.items() if "tinylora_v" in name)
    assert found.bias_parameters == sum(n for name, n in trained.items() if name.endswith("bias"))


TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96,
    "max_position_embeddings": 32,
}  # fmt: skip
GPTJ: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 32, "rotary_dim": 4}
WHOLE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a head with a bias": ("PhiForCausalLM", TEXT, {"target_modules": ["lm_head", "q_proj"]}),
    "and all biases": ("PhiForCausalLM", TEXT, {"target_modules": ["lm_head", "q_proj"], "bias": "all"}),
    "and its own, by an expression": (
        "PhiForCausalLM", TEXT, {"target_modules": r".*(lm_head|q_proj)", "bias": "tinylora_only"}
    ),
    "another head with a bias": ("GPTJForCausalLM", GPTJ, {"target_modules": ["lm_head", "q_proj"]}),
    "a classifier's biases": (
        "BertForSequenceClassification", TEXT,
        {"target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"},
    ),
    "a classifier of layers": (
        "RobertaForSequenceClassification", TEXT,
        {"target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"},
    ),
    "its own biases only": (
        "RobertaForSequenceClassification", TEXT,
        {"target_modules": ["query"], "bias": "tinylora_only", "task_type": "SEQ_CLS"},
    ),
    "modules to save": (
        "PhiForCausalLM", TEXT,
        {"target_modules": ["q_proj"], "modules_to_save": ["mlp", "final_layernorm"], "bias": "all"},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WHOLE)
def test_what_peft_saves_whole(name: str, tmp_path: Path) -> None:
    """Of heads with a bias, and of what is trained whole where all biases are: some of it twice and thrice."""
    class_name, settings, arguments = WHOLE[name]
    model_class = getattr(transformers, class_name)
    model_class(model_class.config_class(**settings)).save_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(
        model_class.from_pretrained(tmp_path / "base"), peft.TinyLoraConfig(r=2, u=3, **arguments)
    )
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = TinyLoraConfig(r=2, u=3, **arguments)
    init(tmp_path / "base", tmp_path / "ours", wanted)
    one, other = (read_header(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert one.header == other.header
    for key in one.tensors:
        if not key.endswith(("tinylora_A", "tinylora_B")):
            assert np.array_equal(one.read(key), other.read(key)), key
    report = count(tmp_path / "base", wanted)
    assert report.stored_bytes == other.size
    trained = sum(parameter.numel() for parameter in theirs.parameters() if parameter.requires_grad)
    assert trained == report.trainable_parameters + report.bias_parameters + report.modules_to_save_parameters


@pytest.mark.filterwarnings("ignore")
def test_the_weights_own_dtype_as_peft_without_autocast(tmp_path: Path) -> None:
    base, arguments = ROOT / "bases" / "qwen2-bf16", {"target_modules": ["q_proj", "down_proj"], "r": 2, "u": 3}
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    theirs = peft.get_peft_model(model, peft.TinyLoraConfig(**arguments), autocast_adapter_dtype=False)
    theirs.save_pretrained(tmp_path / "theirs")
    for dtype in ("auto", "bf16"):
        init(base, tmp_path / dtype, TinyLoraConfig(**arguments), adapter_dtype=dtype)
        one, other = (read_header(tmp_path / who / "adapter_model.safetensors") for who in (dtype, "theirs"))
        assert one.header == other.header
        assert {info.dtype for info in one.tensors.values()} == {"BF16"}
        assert all(np.array_equal(one.read(key), other.read(key)) for key in one.tensors if key.endswith("_P"))
    with pytest.raises(MismatchError, match=r"its weight is bfloat16, so its factors would be rounded to float16"):
        init(base, tmp_path / "no", TinyLoraConfig(**arguments), adapter_dtype="float16")
    init(base, tmp_path / "wide", TinyLoraConfig(**arguments))
    wide = read_header(tmp_path / "wide" / "adapter_model.safetensors")
    assert all(np.array_equal(wide.read(key), one.read(key).astype(np.float32)) for key in one.tensors)


def test_an_order_of_all_modules_numbers_an_unknown_architecture(tmp_path: Path) -> None:
    """It is filtered to the targets; one that lacks a target, or that no model has, is refused."""
    known, base = ROOT / "bases" / "qwen2-bf16", tmp_path / "base"
    shutil.copytree(known, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "nobody", "architectures": ["Nobody"]}))
    everything = [n for n, _ in transformers.AutoModelForCausalLM.from_pretrained(known).named_modules() if n]
    wanted = TinyLoraConfig(target_modules=("q_proj", "o_proj", "up_proj"), u=3, fan_in_fan_out=False)
    numbered = {m.name: m.index for m in count(known, wanted).modules}
    for listed in (everything, list(numbered)):
        assert {m.name: m.index for m in count(base, wanted, module_order=listed).modules} == numbered
        assert {m.name: m.index for m in count(known, wanted, module_order=listed).modules} == numbered
    absent = [name for name in everything if name != "model.layers.3.self_attn.o_proj"]
    with pytest.raises(MismatchError, match=r"doesn't name model.layers.3.self_attn.o_proj, which is targeted"):
        count(base, wanted, module_order=absent)
    with pytest.raises(MismatchError, match=r"names model.layers.2.mlp.up_proj behind model.layers.11"):
        init(base, tmp_path / "out", wanted, module_order=sorted(numbered))
    by_number = sorted(numbered, key=lambda name: (int(name.split(".")[2]), name))
    with pytest.raises(MismatchError, match=r"module 0 is model\.layers\.0\.self_attn\.q_proj, module_order says"):
        count(known, wanted, module_order=by_number)


def test_a_base_without_the_head_that_its_task_needs(tmp_path: Path) -> None:
    base = ROOT / "bases" / "llama-fp32"
    settings = TinyLoraConfig(target_modules=("q_proj",), task_type="SEQ_CLS")
    with pytest.raises(TinyLoraError, match="the base has no classifier or score"):
        init(base, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    assert any("the base has no classifier or score" in warning for warning in count(base, settings).warnings)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    """For every number of threads; what is there isn't replaced."""
    base, config = ROOT / "bases" / "llama-fp32", TinyLoraConfig(target_modules="all-linear", u=3)
    for threads in (1, 2):
        init(base, tmp_path / f"{threads}", config, threads=threads)
    files = [sorted((tmp_path / name).iterdir()) for name in "12"]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    with pytest.raises(OutputError, match="exists already"):
        init(base, tmp_path / "1", config)


@pytest.mark.parametrize("target", ["wte", "lm_head"])
def test_an_embedding_or_a_head_of_an_unknown_architecture_is_refused(tmp_path: Path, target: str) -> None:
    """By its name it would be one or the other, which its factors' form and its tie follow."""
    base = tmp_path / "base"
    shutil.copytree(ROOT / "bases" / "gpt2-fp32", base)
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "nobody", "architectures": ["Nobody"]}))
    names = ["transformer.wte", "transformer.h.0.attn.c_proj", "lm_head"]
    said = TinyLoraConfig(u=3, target_modules=("h.0.attn.c_proj", target), fan_in_fan_out=False)
    with pytest.raises(UndeterminedError, match=rf"{target}: the architecture isn't known") as caught:
        init(base, tmp_path / "out", said, module_order=names)
    assert "with target_modules and leave it out" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
    init(base, tmp_path / "out", replace(said, target_modules=("h.0.attn.c_proj",)), module_order=names)
    keys = [key for key in load_file(tmp_path / "out" / "adapter_model.safetensors") if "tinylora_A" in key]
    assert len(keys) == 1


def test_layers_of_an_unknown_architecture_are_what_the_user_says(tmp_path: Path) -> None:
    """A square Conv1D's factors are those of its transpose, which its shape doesn't tell."""
    known = ROOT / "bases" / "gpt2-fp32"
    base = tmp_path / "base"
    shutil.copytree(known, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "nobody", "architectures": ["Nobody"]}))
    targets = {"target_modules": ("attn.c_proj",), "u": 3}
    init(known, tmp_path / "expected", TinyLoraConfig(**targets))
    names = [m.name for m in count(known, TinyLoraConfig(**targets)).modules]
    with pytest.raises(TinyLoraError, match="whether the targeted layers are Linear") as caught:
        init(base, tmp_path / "out", TinyLoraConfig(**targets), module_order=names)
    assert "fan_in_fan_out=True for Conv1D" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
    init(base, tmp_path / "out", TinyLoraConfig(**targets, fan_in_fan_out=True), module_order=names)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("expected", "out"))
    assert {key: values.tolist() for key, values in one.items()} == {key: v.tolist() for key, v in two.items()}
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["fan_in_fan_out"] is True
