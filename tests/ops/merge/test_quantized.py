"""Merges into quantized bases: what transformers loads of them computes what PEFT's forward pass does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from damage import edit_json
from quantized_bases import BLOCKS, adapted, in_eight_bits, loaded, logits, quantized, saved_model, stored, unlisted
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, Qwen3Config, Qwen3MoeConfig

from tinylora_tools import TinyLoraConfig, described_by, init, load_adapter
from tinylora_tools.bases.dequantizing import dequantizing
from tinylora_tools.errors import UnsupportedError
from tinylora_tools.formats.checkpoint import Checkpoint, read_checkpoint
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.ops.merge.quantized import dequantize
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.merge.words import Outcome, Settled, Source
from tinylora_tools.ops.merge.writing.digest import merged_digest

pytestmark = pytest.mark.filterwarnings("ignore")

E4M3 = torch.float8_e4m3fn
SIZES: dict[str, Any] = {
    "vocab_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
QWEN3 = Qwen3Config(hidden_size=128, intermediate_size=384, head_dim=64, **SIZES)
MOE = Qwen3MoeConfig(
    hidden_size=64, intermediate_size=64, moe_intermediate_size=64, head_dim=32, num_experts=4, num_experts_per_tok=2,
    **SIZES,
)  # fmt: skip

Q, K, V, OUT = (f"self_attn.{name}_proj" for name in "qkvo")
GATE, UP, DOWN = (f"mlp.{name}_proj" for name in ("gate", "up", "down"))


def modules(*names: str) -> set[str]:
    """The modules of both layers that are called so."""
    return {f"model.layers.{layer}.{name}" for layer in (0, 1) for name in names}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in 128 x 128 blocks, in several shards."""
    base = saved_model(tmp_path_factory.mktemp("qwen3") / "base", QWEN3, shard="300KB")
    return quantized(base, lambda name: "_proj" in name)


@pytest.fixture(scope="module")
def adapter(qwen3: Path) -> Path:
    adapted(qwen3, qwen3.parent / "adapter", ["q_proj", "v_proj", "up_proj"])
    return qwen3.parent / "adapter"


def distance(live: Any, merged: Path, dtype: str = "float32") -> float:
    """How far the merged model's logits are from the adapted one's, in units of the adapter's effect."""
    wanted = logits(live)
    with live.disable_adapter():
        effect = logits(live) - wanted
    return float((logits(loaded(merged, dtype)) - wanted).norm() / effect.norm())


def test_the_merged_model_computes_what_peft_does(qwen3: Path, tmp_path: Path) -> None:
    """In float32, where nothing is rounded away: with the weights that change in their own dtype, and with all in
    float32."""
    live = adapted(qwen3, tmp_path / "adapter", ["q_proj", "v_proj", "up_proj"], dtype="float32")
    report = merge(tmp_path / "adapter", tmp_path / "all", qwen3, dtype="float32")
    assert distance(live, tmp_path / "all") < 1e-4
    assert (report.modules_merged, report.tensors_dequantized) == (6, 8)
    merge(tmp_path / "adapter", tmp_path / "some", qwen3)
    assert distance(live, tmp_path / "some") < 2e-2


def test_without_an_update_weights_are_transformers_own(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    own = loaded(qwen3).state_dict()
    merge(adapter, tmp_path / "some", qwen3, scale=0.0)
    found = stored(tmp_path / "some")
    plain = modules(Q, K, V, GATE, UP)  # o_proj reads another input here
    assert {name for name, t in found.items() if t.dtype == E4M3} == {f"{m}.weight" for m in modules(OUT, DOWN)}
    for module in plain:
        assert torch.equal(found[f"{module}.weight"], own[f"{module}.weight"])
    before = stored(qwen3)
    for name in before.keys() - {f"{module}.{end}" for module in plain for end in ("weight", "weight_scale_inv")}:
        assert torch.equal(found[name].view(torch.uint8), before[name].view(torch.uint8)), name
    assert found.keys() == before.keys() - {f"{module}.weight_scale_inv" for module in plain}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_everything_in_one_dtype(dtype: str, qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "merged", qwen3, scale=0.0, dtype=dtype)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == dtype
    own, found = loaded(qwen3, dtype).state_dict(), stored(tmp_path / "merged")
    assert found.keys() == own.keys()
    assert all(found[name].dtype == own[name].dtype and torch.equal(found[name], own[name]) for name in own)


def test_an_update_is_added_before_the_one_rounding(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "merged", qwen3)
    own, found, opened = loaded(qwen3, "float32").state_dict(), stored(tmp_path / "merged"), load_adapter(adapter)
    for module in modules(Q, V, UP):
        A, B = (part.astype(np.float64) for part in opened.factors(module))
        v, P = opened.vector(opened.groups[module]).astype(np.float64), opened.projection(module).astype(np.float64)
        exact = own[f"{module}.weight"].double().numpy() + B @ np.einsum("i,ijk->jk", v, P) @ A
        rounded = exact.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
        ours = found[f"{module}.weight"].view(torch.uint16).numpy()
        assert np.mean(ours != rounded) < 1e-3  # where the sum in float32 falls on the other side of a half
        assert np.max(np.abs(ours.astype(int) - rounded)) <= 1


def test_the_index_fits(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "merged", qwen3)
    found = stored(tmp_path / "merged")
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == found.keys()
    assert len(set(index["weight_map"].values())) > 1
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
    read_checkpoint(tmp_path / "merged")  # every tensor where the index says


def test_scales_in_a_file_of_their_own(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    """Which holds nothing any more where all is dequantized, and then isn't written."""
    tensors, base = stored(qwen3), tmp_path / "base"
    base.mkdir()
    shutil.copy(qwen3 / "config.json", base)
    scales = {name for name in tensors if name.endswith("_scale_inv")}
    of_file = {"model-1.safetensors": tensors.keys() - scales, "model-2.safetensors": scales}
    for file, names in of_file.items():
        save_file({name: tensors[name] for name in names}, base / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in of_file.items() for name in names}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for dtype in ("auto", "bfloat16"):
        merge(adapter, tmp_path / dtype / "apart", base, dtype=dtype)
        merge(adapter, tmp_path / dtype / "together", qwen3, dtype=dtype)
        apart, together = (stored(tmp_path / dtype / name) for name in ("apart", "together"))
        assert apart.keys() == together.keys()
        assert all(
            torch.equal(apart[n].view(torch.uint8), together[n].view(torch.uint8)) for n in apart if apart[n].ndim
        )
        read_checkpoint(tmp_path / dtype / "apart")
    assert (tmp_path / "auto" / "apart" / "model-2.safetensors").exists()
    assert not (tmp_path / "bfloat16" / "apart" / "model-2.safetensors").exists()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"modules_to_not_convert": ["lm_head"]},
        {"ignored_layers": ["lm_head"]},
        {"modules_to_not_convert": ["lm_head"], "ignored_layers": ["lm_head"]},
        {"modules_to_not_convert": []},
    ],
    ids=["none", "transformers", "vllm", "both", "empty"],
)
def test_transformers_takes_for_quantized_what_is(
    given: dict[str, Any], qwen3: Path, adapter: Path, tmp_path: Path
) -> None:
    """No module more, such as the output embedding, which it leaves alone where no list names it; none less."""
    base = tmp_path / "base"
    base.mkdir()
    for path in qwen3.iterdir():
        os.link(path, base / path.name)
    (base / "config.json").unlink()
    config = json.loads((qwen3 / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {**BLOCKS, **given}}))
    merge(adapter, tmp_path / "merged", base)
    found = in_eight_bits(tmp_path / "merged")
    head = {"lm_head"} if given.get("modules_to_not_convert") == [] else set()  # so it was before the merge
    assert found - head == {
        n.removesuffix(".weight") for n, t in stored(tmp_path / "merged").items() if t.dtype == E4M3
    }
    assert found - head == modules(OUT, DOWN)
    settings = json.loads((tmp_path / "merged" / "config.json").read_text())["quantization_config"]
    for key in given or ["modules_to_not_convert"]:
        assert set(settings[key]) >= modules(Q, K, V, GATE, UP)
    assert {key: settings[key] for key in BLOCKS} == BLOCKS


def test_where_all_quantized_weights_change_nothing_is_quantized(qwen3: Path, tmp_path: Path) -> None:
    live = adapted(qwen3, tmp_path / "adapter", "all-linear", dtype="float32")
    merge(tmp_path / "adapter", tmp_path / "merged", qwen3)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    assert {t.dtype for t in stored(tmp_path / "merged").values()} == {torch.bfloat16}
    assert distance(live, tmp_path / "merged") < 2e-2


def test_a_scale_for_a_whole_weight_and_one_for_activations(tmp_path: Path) -> None:
    """Ministral 3's form."""
    base = saved_model(tmp_path / "base", QWEN3)
    settings = {**BLOCKS, "activation_scheme": "static", "weight_block_size": None}
    quantized(base, lambda name: "_proj" in name, settings, block=(1000, 1000), scale=torch.float32)
    tensors = load_file(base / "model.safetensors")
    for name in [name for name in tensors if name.endswith("scale_inv")]:
        tensors[name] = tensors[name].reshape(())
        tensors[name.replace("weight_scale_inv", "activation_scale")] = torch.tensor(0.02)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    live = adapted(base, tmp_path / "adapter", ["down_proj"], dtype="float32")
    merge(tmp_path / "adapter", tmp_path / "merged", base)
    assert distance(live, tmp_path / "merged") < 2e-2
    gone = {f"{m}.{end}" for m in modules(DOWN) for end in ("weight_scale_inv", "activation_scale")}
    assert stored(tmp_path / "merged").keys() == tensors.keys() - gone


@pytest.mark.parametrize("scale", [torch.float32, torch.float8_e8m0fnu], ids=["float32", "ue8m0"])
def test_blocks_that_the_edges_cut_off(scale: torch.dtype, tmp_path: Path) -> None:
    """Which transformers' dequantization refuses: against the blocks' own products."""
    config = Qwen3Config(hidden_size=144, intermediate_size=330, head_dim=40, **SIZES)
    plain, base = saved_model(tmp_path / "plain", config), saved_model(tmp_path / "base", config)
    quantized(base, lambda name: "_proj" in name, scale=scale)
    before, products = stored(base), stored(plain)
    for name in [name for name in before if name.endswith("scale_inv")]:
        weight = name.removesuffix("_scale_inv")
        (rows, columns), scales = before[weight].shape, before[name].float()
        scales = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        products[weight] = before[weight].float() * scales
    save_file({n: t.bfloat16() for n, t in products.items()}, plain / "model.safetensors", metadata={"format": "pt"})
    adapted(plain, tmp_path / "adapter", ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"])
    report = merge(tmp_path / "adapter", tmp_path / "merged", base, scale=0.0)
    assert report.warnings == []  # its factors are those of the very weights
    found = stored(tmp_path / "merged")
    for module in modules(Q, K, V, GATE, UP):
        assert torch.equal(found[f"{module}.weight"], products[f"{module}.weight"].bfloat16())
    assert found[f"{next(iter(modules(DOWN)))}.weight"].dtype == E4M3


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = saved_model(tmp_path_factory.mktemp("moe") / "base", MOE)
    settings = {**BLOCKS, "weight_block_size": [32, 32]}
    return quantized(base, lambda name: "_proj" in name, settings, block=(32, 32))


def test_experts_are_left_alone(experts: Path, tmp_path: Path) -> None:
    live = adapted(experts, tmp_path / "adapter", ["q_proj"], dtype="float32")
    merge(tmp_path / "adapter", tmp_path / "merged", experts)
    assert distance(live, tmp_path / "merged") < 2e-2
    before, found = stored(experts), stored(tmp_path / "merged")
    for name in (name for name in before if ".experts." in name):
        assert torch.equal(found[name].view(torch.uint8), before[name].view(torch.uint8))
    assert in_eight_bits(tmp_path / "merged") == modules(OUT, "mlp.experts")


def test_an_expert_takes_its_layer_s_with_it(experts: Path, tmp_path: Path) -> None:
    """Adapters of transformers 4 have each expert; it and vLLM take a layer's for one."""
    base, target = unlisted(experts, tmp_path / "base"), "model.layers.1.mlp.experts.2.up_proj"
    config = TinyLoraConfig(r=2, u=5, target_modules=(target,), fan_in_fan_out=False)
    init(base, tmp_path / "adapter", config, module_order=[target])
    own = loaded(experts).state_dict()
    with described_by("plain"):
        report = merge(tmp_path / "adapter", tmp_path / "merged", base)  # its v is zero
    edit_json(tmp_path / "merged" / "config.json", model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"])
    assert (report.modules_merged, report.tensors_dequantized) == (1, 11)
    found = loaded(tmp_path / "merged").state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    layer = [t.dtype for name, t in stored(tmp_path / "merged").items() if "layers.1.mlp.experts." in name]
    assert layer == [torch.bfloat16] * 12
    assert in_eight_bits(tmp_path / "merged") == {*modules(Q, K, V, OUT), "model.layers.0.mlp.experts"}


def test_gpt_oss(tmp_path: Path) -> None:
    """Its experts are in MXFP4, and stay so byte for byte; its attention isn't quantized."""
    config = GptOssConfig(
        hidden_size=64, intermediate_size=64, head_dim=16, num_local_experts=4, num_experts_per_tok=2, **SIZES
    )
    base = saved_model(tmp_path / "base", config)
    tensors = load_file(base / "model.safetensors")
    torch.manual_seed(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        shape = (experts, rows, columns // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    settings = {"modules_to_not_convert": skipped, "quant_method": "mxfp4"}
    edit_json(base / "config.json", quantization_config=settings)
    live = adapted(base, tmp_path / "adapter", ["q_proj", "v_proj", "o_proj"], dtype="float32")
    merge(tmp_path / "adapter", tmp_path / "merged", base)
    assert distance(live, tmp_path / "merged") < 2e-2
    found = stored(tmp_path / "merged")
    assert found.keys() == tensors.keys()
    changed = {name for name in found if not torch.equal(found[name], tensors[name])}
    assert changed == {f"{module}.weight" for module in modules(Q, V, OUT)}
    assert (tmp_path / "merged" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    with pytest.raises(
        UnsupportedError, match=r"dtype='float32' is for all tensors, and .*_blocks is stored as U8"
    ) as e:
        merge(tmp_path / "adapter", tmp_path / "other", base, dtype="float32")
    assert "Mxfp4Config(dequantize=True)" in str(e.value.hint)
    lost = merge(tmp_path / "adapter", tmp_path / "other", base, scale=1e-6).warnings
    assert lost[0].endswith("too small for the weights' precision. Serve the adapter unmerged")


def test_experts_in_one_tensor(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    """Several matrices in a tensor, each with its blocks; in parts that are smaller than a matrix."""
    base, name = tmp_path / "base", "model.layers.7.mlp.experts.gate_up_proj"
    shutil.copytree(qwen3, base)
    torch.manual_seed(0)
    weight, scale = torch.randn(3, 256, 384).to(E4M3), torch.rand(3, 2, 3)
    shard = sorted(base.glob("*.safetensors"))[0]
    tensors = {**load_file(shard), name: weight, f"{name}_scale_inv": scale}
    save_file(tensors, shard, metadata={"format": "pt"})
    index = json.loads((base / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {name: shard.name, f"{name}_scale_inv": shard.name}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    merge(adapter, tmp_path / "same", base)
    assert torch.equal(stored(tmp_path / "same")[name].view(torch.uint8), weight.view(torch.uint8))
    merge(adapter, tmp_path / "wide", base, dtype="float32")
    scales = scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
    assert torch.equal(stored(tmp_path / "wide")[name], weight.float() * scales)


def test_compressed_tensors(tmp_path: Path) -> None:
    """A scale for each row. Each expert is named by itself."""
    base = saved_model(tmp_path / "base", MOE)
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "targets": ["Linear"]}
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}
    quantized(
        base, lambda name: "_proj" in name, settings, block=(1, 64), scale=torch.float32, scale_name="weight_scale"
    )
    base = unlisted(base, tmp_path / "unlisted")
    targets = ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.experts.2.up_proj")
    config = TinyLoraConfig(r=2, u=5, target_modules=targets, fan_in_fan_out=False)
    init(base, tmp_path / "adapter", config, module_order=targets)
    with described_by("plain"):
        merge(tmp_path / "adapter", tmp_path / "merged", base)
    before, found = stored(base), stored(tmp_path / "merged")
    plain = [f"model.layers.1.{name}" for name in (Q, K, V)]
    plain += [f"model.layers.1.mlp.experts.{i}.{name}_proj" for i in range(4) for name in ("down", "gate", "up")]
    for module in plain:
        product = before[f"{module}.weight"].float() * before[f"{module}.weight_scale"]
        assert torch.equal(found[f"{module}.weight"], product.bfloat16())
    assert found.keys() == before.keys() - {f"{module}.weight_scale" for module in plain}
    written = json.loads((tmp_path / "merged" / "config.json").read_text())["quantization_config"]
    assert sorted(written.pop("ignore")) == sorted(plain)
    assert written == settings


def test_a_replaced_weight_takes_no_scale_with_it(qwen3: Path, tmp_path: Path) -> None:
    live = adapted(qwen3, tmp_path / "adapter", ["down_proj"], modules_to_save=["o_proj"], dtype="float32")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name in [name for name in tensors if "o_proj" in name]:
        tensors[name] = tensors[name] * 1.5
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    live.load_adapter(tmp_path / "adapter", "again")
    live.set_adapter("again")
    report = merge(tmp_path / "adapter", tmp_path / "merged", qwen3)
    assert report.tensors_replaced == 2
    assert distance(live, tmp_path / "merged") < 2e-2
    found = stored(tmp_path / "merged")
    assert all(found[f"{module}.weight"].dtype == torch.bfloat16 for module in modules(OUT, DOWN))
    assert not any(f"{module}.weight_scale_inv" in found for module in modules(OUT, DOWN))
    assert in_eight_bits(tmp_path / "merged") == modules(Q, K, V, GATE, UP)


def test_the_bytes_are_the_same_for_every_number_of_threads(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    """And for every size of blocks, as the digest forms them too."""
    merge(adapter, tmp_path / "one", qwen3, threads=1)
    merge(adapter, tmp_path / "three", qwen3, threads=3)
    for path in (tmp_path / "one").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes()
    opened = load_adapter(adapter, base=qwen3)
    assert merged_digest(opened, qwen3, threads=1) == merged_digest(opened, qwen3, threads=2)


def test_settings_of_a_model_inside_another() -> None:
    """They change beside what else does in the same place, such as a tie."""
    key = "model.language_model.layers.0.mlp.up_proj"
    weights = {f"{key}.weight": np.ones((4, 4), ml_dtypes.float8_e4m3fn), f"{key}.weight_scale_inv": np.ones((1, 1))}
    weights |= {f"{key[:-7]}down_proj.{name.rpartition('.')[2]}": array[:, :1] for name, array in weights.items()}
    file = MemoryFile(Path("base"), weights)
    config = {"text_config": {"a": 1, "quantization_config": {"quant_method": "fp8"}}}
    base = dequantizing(Checkpoint(Path("base"), config, (file,), dict.fromkeys(weights, 0)))
    untied = {"tie_word_embeddings": False, "text_config": {**config["text_config"], "tie_word_embeddings": False}}

    def changed(*, everything: bool) -> dict[str, Any]:
        source = Source(base.source(f"{key}.weight"), base.info(f"{key}.weight"))
        settled = Settled(outcomes={f"{key}.weight": Outcome(source)})
        return dequantize(base, settled, untied, everything=everything)

    assert changed(everything=True) == {
        "tie_word_embeddings": False,
        "text_config": {"a": 1, "tie_word_embeddings": False},
    }
    found = changed(everything=False)
    listed = found["text_config"].pop("quantization_config")["modules_to_not_convert"]
    assert listed == ["lm_head", key]
    assert found == changed(everything=True)
