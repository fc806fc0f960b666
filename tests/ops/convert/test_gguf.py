"""TinyLoRA as a LoRA adapter in GGUF: the tensors of llama.cpp's own converter, and refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_cases as cases
import numpy as np
import pytest
from edited_files import edited_copy
from fixture_data import fixture
from gguf_files import contents

from tinylora_tools import to_gguf
from tinylora_tools.errors import FormatError, MismatchError, OutputError, UndeterminedError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A case's adapter, and its base: config.json alone, perhaps with other entries."""

    def make(name: str, *modules: str, **entries: Any) -> tuple[Path, Path]:
        case = cases.CASES[name]
        shapes = cases.shapes_of(case, cases.config_of(case))
        chosen = {module: shapes[module] for module in modules} if modules else shapes
        base = tmp_path / "base"
        base.mkdir(exist_ok=True)
        config = json.loads((cases.HERE / name / "config.json").read_text()) | entries
        (base / "config.json").write_text(json.dumps(config))
        return cases.write_adapter(tmp_path / "adapter", cases.tiny_adapter(chosen)), base

    return make


WRITTEN = [(name, path.stem) for name in cases.CASES for path in sorted((cases.HERE / name).glob("*.gguf"))]


@pytest.mark.parametrize(("name", "outtype"), WRITTEN, ids=["-".join(one) for one in WRITTEN])
def test_tensors_are_those_of_llama_cpp_s_converter(
    name: str, outtype: str, made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    adapter, base = made(name)
    report = to_gguf(adapter, tmp_path / "adapter.gguf", base=base, outtype=outtype)
    said, ours = contents(tmp_path / "adapter.gguf")
    their_said, theirs = contents(cases.HERE / name / f"{outtype}.gguf")
    assert ours == theirs
    of_the_format = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    assert [said[key] for key in of_the_format] == [their_said[key] for key in of_the_format]
    assert report.outtype == outtype
    assert report.architecture == said["general.architecture"]
    assert (report.rank, report.tensors, report.modules) == (2, len(ours), len(ours) // 2)
    assert report.bytes_written == (tmp_path / "adapter.gguf").stat().st_size


def test_every_class_but_gpt2_was_compared() -> None:
    from tinylora_tools.formats.gguf.layout import LAYOUTS

    assert {case.class_name for case in cases.CASES.values()} == LAYOUTS.keys() - {"GPT2LMHeadModel"}
    assert {name for name, _ in WRITTEN} == cases.CASES.keys()


def test_conv1d_factors_stand_as_they_are(tmp_path: Path) -> None:
    """GPT-2: LoRA's factors have a Conv1D's update in a Linear's orientation, as GGUF has its weight."""
    case = fixture("peft020-gpt2")
    adapter = edited_copy(case.name, tmp_path / "a", _without_head, target_modules=["c_attn", "c_proj"])
    to_gguf(adapter, tmp_path / "a.gguf", base=case.base)
    said, held = contents(tmp_path / "a.gguf")
    assert said["general.architecture"] == "gpt2"
    names = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_proj": "ffn_down"}
    modules = [row["name"] for row in case.modules if row["name"] != "lm_head"]
    for module in modules:
        _, _, layer, rest = module.split(".", 3)
        name = f"blk.{layer}.{names[rest]}.weight"
        (_, (n_in, r), a), (_, (_, n_out), b) = held[f"{name}.lora_a"], held[f"{name}.lora_b"]
        update = np.frombuffer(b, np.float32).reshape(n_out, r) @ np.frombuffer(a, np.float32).reshape(r, n_in)
        exact = case.delta(module)
        assert np.abs(update - exact).max() <= 1e-6 * np.abs(exact).max()
    assert len(held) == 2 * len(modules)


def _without_head(tensors: dict[str, Any]) -> None:
    """The last of the modules, and its vector."""
    for key in [key for key in tensors if ".lm_head." in key]:
        del tensors[key]
    del tensors["base_model.tinylora_v.6"]


def test_ranks_are_padded_to_one(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    """llama.cpp scales by one alpha over each module's own rank."""
    adapter, base = made("llama", "model.layers.0.self_attn.q_proj")
    other = cases.write_adapter(
        tmp_path / "other", cases.tiny_adapter({"model.layers.0.mlp.up_proj": cases.Shape("Linear", 24, 16)})
    )
    report = to_gguf([adapter, adapter, other], tmp_path / "a.gguf", base=base, scale=(1.0, 0.5, 1.0))
    said, held = contents(tmp_path / "a.gguf")
    assert report.rank == said["adapter.lora.alpha"] == 4
    assert held["blk.0.ffn_up.weight.lora_a"][1] == (16, 4)
    assert held["blk.0.attn_q.weight.lora_b"][1] == (4, 16)


def test_auto_is_the_base_s_type(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    for number, (dtype, outtype) in enumerate(
        [("bfloat16", "bf16"), ("float16", "f16"), ("float32", "f32"), (None, "f32")]
    ):
        adapter, base = made("qwen2", dtype=dtype)
        report = to_gguf(adapter, tmp_path / f"{number}.gguf", base=base, outtype="auto")
        assert report.outtype == outtype
        kinds = {kind for kind, _, _ in contents(tmp_path / f"{number}.gguf")[1].values()}
        assert kinds == {outtype.upper()}


def refused(kind: type[Exception], match: str, tmp_path: Path, adapter: Path, base: Path | None, **given: Any) -> str:
    with pytest.raises(kind, match=match) as caught:
        to_gguf(adapter, tmp_path / "no.gguf", base=base, **given)
    assert not (tmp_path / "no.gguf").exists()
    return str(caught.value.hint)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "LlamaForSequenceClassification isn't among the classes",
        ),
        ({"architectures": None}, "a class without a name isn't among"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "kv_lora_rank": 8}, "latent attention"),
        ({"architectures": ["MambaForCausalLM"], "state_size": 8}, "Mamba's or linear attention's layers"),
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}}, "several kinds of input"),
    ],
)
def test_a_class_that_was_not_compared_is_refused(
    entries: dict[str, Any], match: str, made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    adapter, base = made("llama", "model.layers.0.self_attn.q_proj", **entries)
    hint = refused(UnsupportedError, match, tmp_path, adapter, base)
    assert f"tinylora_tools.merge({adapter}, MERGED)" in hint
    assert "convert_hf_to_gguf.py MERGED" in hint


def test_a_falcon_with_alibi_is_refused(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    adapter, base = made("falcon", alibi=True)
    assert "merge" in refused(UnsupportedError, "alibi", tmp_path, adapter, base)


@pytest.mark.parametrize("module", ["model.embed_tokens", "lm_head"])
def test_what_is_tied_is_refused(module: str, made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    """llama.cpp aborts when it decodes with the one, and refuses the other."""
    adapter, base = made("qwen2", module, tie_word_embeddings=True)
    assert "merge" in refused(UnsupportedError, f"{module}: .* the same weight", tmp_path, adapter, base)
    adapter, base = made("qwen2", module)
    assert to_gguf(adapter, tmp_path / "fine.gguf", base=base).modules == 1


@pytest.mark.parametrize(("name", "module"), [("gemma2", "model.embed_tokens"), ("cohere", "model.embed_tokens")])
def test_what_llama_cpp_always_ties_is_refused(
    name: str, module: str, tmp_path: Path, made: Callable[..., Any]
) -> None:
    """Whatever the configuration says."""
    _, base = made(name, tie_word_embeddings=False)
    adapter = cases.write_adapter(tmp_path / "e", cases.tiny_adapter({module: cases.Shape("Embedding", 32, 16)}))
    assert "merge" in refused(UnsupportedError, f"{module}: .* the same weight", tmp_path, adapter, base)


def test_modules_that_llama_cpp_has_no_lora_for_are_refused(tmp_path: Path, made: Callable[..., Any]) -> None:
    _, base = made("mixtral")
    expert = "model.layers.0.block_sparse_moe.experts.1.w1"
    one = cases.write_adapter(tmp_path / "x", cases.tiny_adapter({expert: cases.Shape("Linear", 24, 16)}))
    refused(UnsupportedError, "the experts of a layer in one tensor", tmp_path, one, base)
    gpt2 = fixture("peft021-bare").base
    positions = cases.write_adapter(
        tmp_path / "wpe", cases.tiny_adapter({"transformer.wpe": cases.Shape("Embedding", 32, 16)})
    )
    config = json.loads((gpt2 / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (base / "config.json").write_text(json.dumps(config))
    refused(UnsupportedError, "loads a LoRA of position_embd, and never uses it", tmp_path, positions, base)


@pytest.mark.parametrize("name", ["peft021-bias-all", "peft020-bert-bias"])
def test_what_is_brought_whole_is_refused(name: str, tmp_path: Path) -> None:
    """llama.cpp's converter stops at some of it, and leaves the rest out."""
    case = fixture(name)
    match = "takes neither biases nor modules_to_save" if "bias-all" in name else "isn't among the classes"
    assert "merge" in refused(UnsupportedError, match, tmp_path, case.adapter, case.base)


def test_an_embedding_s_own_weight_is_left_out(made: Callable[..., Any], tmp_path: Path) -> None:
    """PEFT saves it along with the factors; where it is the base's, nothing is lost."""
    adapter, base = made("qwen2", "model.embed_tokens")
    weight = np.arange(32 * 16, dtype=np.float32).reshape(32, 16)
    config, tensors = cases.tiny_adapter({"model.embed_tokens": cases.Shape("Embedding", 32, 16)})
    cases.write_adapter(adapter, (config, tensors | {"base_model.model.model.embed_tokens.base_layer.weight": weight}))
    hint = refused(UnsupportedError, "isn't known without the base's weights", tmp_path, adapter, base)
    assert "base=..." in hint
    from safetensors.numpy import save_file

    save_file({"model.embed_tokens.weight": weight}, base / "model.safetensors")
    to_gguf(adapter, tmp_path / "fine.gguf", base=base)
    assert len(contents(tmp_path / "fine.gguf")[1]) == 2
    save_file({"model.embed_tokens.weight": weight + 1}, base / "model.safetensors")
    refused(
        UnsupportedError, r"brings model\.embed_tokens\.weight, and llama\.cpp takes neither", tmp_path, adapter, base
    )


def test_without_a_configuration_nothing_is_guessed(made: Callable[..., Any], tmp_path: Path) -> None:
    adapter, base = made("llama", "model.layers.0.self_attn.q_proj")
    assert "base=..." in refused(UndeterminedError, "no config.json of the base", tmp_path, adapter, None)
    (base / "config.json").unlink()
    refused(FormatError, "no model here", tmp_path, adapter, base)


def test_heads_that_do_not_divide_the_rows_are_told(made: Callable[..., Any], tmp_path: Path) -> None:
    adapter, base = made("llama", "model.layers.0.self_attn.q_proj", num_attention_heads=5)
    refused(MismatchError, r"q_proj: 16 rows aren't divided by the 5 x 2", tmp_path, adapter, base)
    adapter, base = made("bloom", num_attention_heads=2)
    refused(UndeterminedError, "n_head=4", tmp_path, adapter, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "head" not in k}))
    refused(UndeterminedError, "doesn't say num_attention_heads or n_head", tmp_path, adapter, base)


def test_without_the_package_its_extra_is_named(
    made: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, base = made("llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "tinylora-tools[gguf]" in refused(UnsupportedError, "gguf package", tmp_path, adapter, base)


def test_outputs_are_treated_as_everywhere(made: Callable[..., Any], tmp_path: Path) -> None:
    adapter, base = made("llama")
    with pytest.raises(OutputError, match=r"expected the ending \.gguf"):
        to_gguf(adapter, tmp_path / "a.safetensors", base=base)
    to_gguf(adapter, tmp_path / "a.gguf", base=base)
    with pytest.raises(OutputError, match="exists already"):
        to_gguf(adapter, tmp_path / "a.gguf", base=base)
    first = (tmp_path / "a.gguf").read_bytes()
    to_gguf(adapter, tmp_path / "a.gguf", base=base, force=True)
    assert (tmp_path / "a.gguf").read_bytes() == first
    with pytest.raises(UnsupportedError, match="outtype='q8_0'"):
        to_gguf(adapter, tmp_path / "b.gguf", base=base, outtype="q8_0")
