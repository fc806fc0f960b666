"""What is written, in the programs that serve it: llama.cpp's and mlx-lm's logits of base, LoRA and merge are PEFT's.

Run by .ci/serve, which installs mlx-lm, builds llama-cpp-python and says in LLAMA_CPP where llama.cpp's source is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf_cases as cases
import numpy as np
import pytest

pytestmark = [pytest.mark.serve, pytest.mark.filterwarnings("ignore")]

#: Sizes that llama.cpp's kernels take, and that tell heads from their numbers.
LARGER: dict[str, Any] = {
    "hidden_size": 64, "n_embd": 64, "intermediate_size": 96, "n_inner": 256, "head_dim": 16, "vocab_size": 96,
    "max_position_embeddings": 64, "n_positions": 64,
}  # fmt: skip
TOKENS = [3, 17, 42, 5, 80, 9, 61, 33, 2, 90, 11, 7]

SERVED = {
    **cases.CASES,
    # what llama.cpp takes for granted: weights of chosen experts that sum to one, and an attention scaled by its width
    "qwen3moe": cases.CASES["qwen3moe"]._replace(settings=cases.CASES["qwen3moe"].settings | {"norm_topk_prob": True}),
    "gemma2": cases.CASES["gemma2"]._replace(settings={"query_pre_attn_scalar": 16}),
    "gemma3": cases.CASES["gemma3"]._replace(settings={"query_pre_attn_scalar": 16}),
    # its head's bias is saved along, which llama.cpp takes from no adapter
    "phi": cases.CASES["phi"]._replace(
        settings=cases.CASES["phi"].settings | {"intermediate_size": 4 * 64}, without=("lm_head",)
    ),
    "cohere": cases.CASES["cohere"]._replace(settings={"logit_scale": 1.0}),  # else nothing changes logits much
    "llama-tied": cases.Case("LlamaForCausalLM", {"tie_word_embeddings": True}, ("model.embed_tokens", "lm_head")),
    "gpt2": cases.Case("GPT2LMHeadModel", {}, ("transformer.wte", "transformer.wpe", "lm_head")),
}


def checkpoint(name: str, directory: Path) -> Any:
    """A random model of a case, saved."""
    import torch
    import transformers

    case = SERVED[name]
    settings = {**LARGER, **case.settings}
    for key in ("moe_intermediate_size", "shared_expert_intermediate_size"):
        if key in settings:
            settings[key] = 32
    if "head_dim" in case.settings:
        settings["head_dim"] = 32
    config = cases.config_of(case._replace(settings=settings))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, case.class_name)(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    return model


def peft_adapter(name: str, base: Path, directory: Path, seed: int) -> Path:
    """A TinyLoRA adapter by PEFT, with vectors that change much."""
    import peft
    import torch
    import transformers

    case = SERVED[name]
    model = getattr(transformers, case.class_name).from_pretrained(base)
    targets = [
        key
        for key, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding, transformers.pytorch_utils.Conv1D))
        and key not in case.without
    ]
    config = peft.TinyLoraConfig(
        r=2, u=3, target_modules=targets, projection_seed=seed, init_weights="uniform", init_v_bound=0.4
    )
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(directory)
    return directory


def logits_of(base: Path, name: str, adapter: Path | None = None, merged: Path | None = None) -> np.ndarray[Any, Any]:
    import peft
    import torch
    import transformers

    model = getattr(transformers, SERVED[name].class_name).from_pretrained(merged or base, attn_implementation="eager")
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval().float()(torch.tensor([TOKENS])).logits[0].double().numpy()


@pytest.mark.parametrize("name", SERVED)
def test_llama_cpp_gives_peft_s_logits(name: str, tmp_path: Path) -> None:
    """With the LoRA, with the merge, and with two adapters, each at a scale of its own."""
    from llama_cpp_runs import Model, to_model_gguf

    import tinylora_tools as tl

    llama_cpp = Path(os.environ["LLAMA_CPP"])
    base = tmp_path / "base"
    checkpoint(name, base)
    model = Model(to_model_gguf(llama_cpp, base, tmp_path / "base.gguf"))
    plain, theirs = logits_of(base, name), model.logits(TOKENS)
    noise = np.abs(theirs - plain).max()
    assert noise < 2e-2 * np.abs(plain).max(), noise  # llama.cpp's activations are rounded in tables
    adapters, wanted = [], []
    for seed in (1, 2):
        adapter = peft_adapter(name, base, tmp_path / f"adapter{seed}", seed)
        tl.to_gguf(adapter, tmp_path / f"{seed}.gguf", base=base)
        adapters.append(model.adapter(tmp_path / f"{seed}.gguf"))
        wanted.append(logits_of(base, name, adapter))
        change = np.abs(wanted[-1] - plain).max()
        error = np.abs(model.logits(TOKENS, (adapters[-1], 1.0)) - wanted[-1]).max()
        print(f"{name}: changes {change:.2f}, base's noise {noise:.1e}, LoRA's error {error:.1e}")
        assert change > 0.1
        assert error < 1e-4 + 4 * noise
    paths = [tmp_path / "adapter1", tmp_path / "adapter2"]
    tl.merge(paths, tmp_path / "merged", base=base, scale=[0.5, -0.75])
    expected = logits_of(base, name, merged=tmp_path / "merged")
    found = model.logits(TOKENS, (adapters[0], 0.5), (adapters[1], -0.75))
    assert np.abs(found - expected).max() < 1e-4 + 4 * noise
    merged = Model(to_model_gguf(llama_cpp, tmp_path / "merged", tmp_path / "merged.gguf"))
    assert np.abs(merged.logits(TOKENS) - expected).max() < 1e-4 + 4 * noise


#: mlx-lm takes for granted that one layer in six of a Gemma 3 looks at everything.
FOR_MLX: dict[str, dict[str, Any]] = {"gemma3": {"num_hidden_layers": 6, "sliding_window_pattern": 6}}
#: It hasn't Bloom and Falcon, its OLMo is another project's, and GPT-2 and GPT-NeoX have other names there.
NOT_IN_MLX = ("Bloom", "Falcon", "GPT2", "GPTNeoX", "OlmoFor")
IN_MLX = [name for name in SERVED if not SERVED[name].class_name.startswith(NOT_IN_MLX)]


def with_entries_of_old(directory: Path) -> Path:
    """A model's directory with the entries of config.json that transformers 4 wrote and mlx-lm reads."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    rope = next(iter(rope.values())) if all(isinstance(one, dict) for one in rope.values()) and rope else rope
    old = {
        "rope_theta": rope.get("rope_theta"),
        "partial_rotary_factor": rope.get("partial_rotary_factor"),
        "num_experts": config.get("num_local_experts"),
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
    }
    path.write_text(json.dumps({key: value for key, value in old.items() if value is not None} | config))
    return directory


@pytest.mark.parametrize("name", IN_MLX)
def test_mlx_lm_gives_peft_s_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the LoRA, of several adapters as of one, and with the merge."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    import tinylora_tools as tl

    def logits(model: Path, lora: Path | None = None) -> np.ndarray[Any, Any]:
        loaded, _ = load_model(with_entries_of_old(model))
        if lora is not None:
            load_adapters(loaded, str(lora))
        return np.array(loaded(mx.array([TOKENS]))[0].astype(mx.float32)).astype(np.float64)

    case = SERVED[name]
    monkeypatch.setitem(SERVED, name, case._replace(settings=case.settings | FOR_MLX.get(name, {})))
    base = tmp_path / "base"
    checkpoint(name, base)
    plain = logits_of(base, name)
    noise = np.abs(logits(base) - plain).max()
    assert noise < 2e-3 * np.abs(plain).max()
    paths = [peft_adapter(name, base, tmp_path / f"adapter{seed}", seed) for seed in (1, 2)]
    tl.to_lora(paths[0], tmp_path / "lora", base=base, server="mlx")
    wanted = logits_of(base, name, paths[0])
    error = np.abs(logits(base, tmp_path / "lora") - wanted).max()
    print(f"{name}: changes {np.abs(wanted - plain).max():.2f}, base's noise {noise:.1e}, LoRA's error {error:.1e}")
    assert np.abs(wanted - plain).max() > 0.1
    assert error < 2e-5 + 4 * noise
    tl.merge(paths, tmp_path / "merged", base=base, scale=[0.5, -0.75])
    tl.to_lora(paths, tmp_path / "both", base=base, scale=[0.5, -0.75], server="mlx")
    expected = logits_of(base, name, merged=tmp_path / "merged")
    assert np.abs(logits(tmp_path / "merged") - expected).max() < 2e-5 + 4 * noise
    assert np.abs(logits(base, tmp_path / "both") - expected).max() < 2e-5 + 4 * noise


def test_mlx_lm_s_form_is_written_for_no_other_class() -> None:
    from tinylora_tools.formats.serving.mlx_adapter import CLASSES

    assert {SERVED[name].class_name for name in IN_MLX} == CLASSES
