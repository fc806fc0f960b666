"""What programs would refuse, lose or misread of an adapter: refused for them, and told where nobody said for whom."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_cases as cases
import numpy as np
import pytest
from fixture_data import fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools import described_by
from tinylora_tools.errors import UndeterminedError, UnsupportedError
from tinylora_tools.formats.serving.engines import ENGINES, EngineName, engines
from tinylora_tools.ops.convert.lora import to_lora

pytestmark = pytest.mark.filterwarnings("ignore")

LAYER = "model.layers.0."
LINEAR = cases.Shape("Linear", 16, 16)
EMBEDDING = cases.Shape("Embedding", 32, 16)

Made = Callable[..., tuple[Path, Path]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An adapter of modules, or of all that a case has, and its base: config.json alone, perhaps with other entries."""

    def make(
        name: str, modules: dict[str, cases.Shape] | None = None, whole: dict[str, Any] | None = None, **entries: Any
    ) -> tuple[Path, Path]:
        case = cases.CASES[name]
        base = tmp_path / f"base{len(list(tmp_path.iterdir()))}"
        base.mkdir()
        said = json.loads((cases.HERE / name / "config.json").read_text()) | entries
        (base / "config.json").write_text(json.dumps(said))
        config, tensors = cases.tiny_adapter(modules or cases.shapes_of(case, cases.config_of(case)))
        saved = sorted({key.split(".")[-2] for key in whole or {} if "base_layer" not in key})
        config |= {"modules_to_save": saved or None}
        return cases.write_adapter(tmp_path / f"{base.name}-a", (config, tensors | (whole or {}))), base

    return make


def refused(server: EngineName, adapter: Path, base: Path, match: str, **given: Any) -> str:
    output = adapter.parent / "refused"
    with pytest.raises(UnsupportedError, match=match) as caught:
        to_lora(adapter, output, base=base, server=server, **given)
    assert not output.exists()
    return caught.value.hint or ""


def warned(adapter: Any, base: Path, **given: Any) -> list[str]:
    first = adapter[0] if isinstance(adapter, list) else adapter
    return to_lora(adapter, first.parent / "written", base=base, force=True, **given).warnings


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "phi3"])
@pytest.mark.parametrize("server", ENGINES)
def test_layers_of_what_all_know_are_taken_by_all(name: str, server: EngineName, made: Made, tmp_path: Path) -> None:
    shapes = cases.shapes_of(cases.CASES[name], cases.config_of(cases.CASES[name]))
    adapter, base = made(name, {module: shape for module, shape in shapes.items() if ".layers." in module})
    report = to_lora(adapter, tmp_path / "lora", base=base, server=server)
    assert report.warnings == []
    assert warned(adapter, base) == []
    assert f"{tmp_path / 'lora'}" in report.serve[0]


def test_ranks_of_their_own_in_each_program(made: Made, tmp_path: Path) -> None:
    """llama.cpp scales by one alpha over each tensor's own rank."""
    first, base = made("llama", {LAYER + "self_attn.o_proj": LINEAR})
    second = cases.write_adapter(
        tmp_path / "second", cases.tiny_adapter({LAYER + "mlp.down_proj": cases.Shape("Linear", 16, 24)})
    )
    both = [first, first, second]
    [warning] = warned(both, base, rank_pattern=True)
    assert warning.startswith("llama.cpp knows no rank_pattern, and scales by one alpha over each module's own rank. ")
    for server in ("sglang", "llama.cpp", "mlx"):
        with pytest.raises(UnsupportedError, match="knows no rank_pattern") as caught:
            to_lora(both, tmp_path / "no", base=base, server=server, rank_pattern=True)
        assert caught.value.hint == "Leave rank_pattern out: ranks are padded with zeros."
        assert to_lora(both, tmp_path / server, base=base, server=server).rank == 4
    told = to_lora(both, tmp_path / "vllm", base=base, server="vllm", rank_pattern=True)
    assert told.ranks == {LAYER + "mlp.down_proj": 2}


def test_saved_modules_in_each_program(made: Made) -> None:
    """llama.cpp passes over a norm, SGLang over a head, and vLLM stops at both but at a classifier's."""
    one = {LAYER + "self_attn.o_proj": LINEAR}
    adapter, base = made("llama", one, {"base_model.model.model.norm.weight": np.ones(16, np.float32)})
    found = warned(adapter, base)
    for title, warning in zip(("SGLang", "llama.cpp"), found, strict=True):
        assert warning.startswith(f"the adapter brings model.norm.weight, and {title} takes neither biases nor ")
        assert "tinylora_tools.merge" in warning
    for server in ENGINES:
        assert "merge" in refused(server, adapter, base, "takes neither biases nor modules_to_save")
    head = {"base_model.model.lm_head.weight": np.ones((32, 16), np.float32)}
    [warning] = warned(*made("llama", one, head))
    assert warning.startswith("the adapter brings lm_head.weight, and SGLang takes neither")
    assert "doesn't say so" in warning


def test_biases_are_lost_in_sglang_alone() -> None:
    case = fixture("peft021-bias-all")
    found = [one for one in warned_to(case) if "takes neither biases" in one]
    assert len(found) == 1
    assert "SGLang" in found[0]


def warned_to(case: Any, **given: Any) -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        return to_lora(case.adapter, Path(directory) / "lora", base=case.base, **given).warnings


def test_a_classifier_s_head_is_vllm_s_to_take(tmp_path: Path, made: Made) -> None:
    head = {"base_model.model.score.weight": np.ones((3, 16), np.float32)}
    adapter, base = made("qwen2", {LAYER + "self_attn.o_proj": LINEAR}, head)
    report = to_lora(adapter, tmp_path / "lora", base=base, server="vllm")
    assert report.warnings == []
    assert "base_model.model.score.weight" in load_file(tmp_path / "lora" / "adapter_model.safetensors")


def test_tied_embeddings_in_llama_cpp(made: Made) -> None:
    """Its process aborts when it decodes with a LoRA of tied embeddings; a head's is refused when it is loaded."""
    adapter, base = made("qwen2", {"model.embed_tokens": EMBEDDING}, tie_word_embeddings=True)
    [warning] = warned(adapter, base)
    assert "model.embed_tokens: its head reads the same weight, or may: llama.cpp aborts when it decodes" in warning
    assert "convert_hf_to_gguf.py MERGED" in refused("llama.cpp", adapter, base, "aborts when it decodes")
    refused("mlx", adapter, base, "adds an embedding's LoRA to both")
    adapter, base = made("qwen2", {"lm_head": cases.Shape("Linear", 32, 16)}, tie_word_embeddings=True)
    assert warned(adapter, base) == []  # whoever doesn't take it says so
    for server in ("llama.cpp", "mlx"):
        refused(server, adapter, base, "knows no LoRA of a tied head")
    for apart in ("model.embed_tokens", "lm_head"):
        adapter, base = made("qwen2", {apart: EMBEDDING if "embed" in apart else cases.Shape("Linear", 32, 16)})
        for server in ("llama.cpp", "mlx", "sglang"):
            to_lora(adapter, adapter.parent / f"{server}-{apart}", base=base, server=server)


def test_conv1d_is_for_gguf(tmp_path: Path) -> None:
    """llama.cpp's converter transposes a Conv1D's weight, and with it factors in a Linear's order."""
    case = fixture("peft020-gpt2")
    found = [one for one in warned_to(case) if "llama.cpp" in one]
    assert found[0].startswith("llama.cpp's convert_lora_to_gguf.py transposes what a LoRA of GPT2LMHeadModel has")
    assert "tinylora_tools.to_gguf" in found[0]
    refused_for = {"vllm": "has no LoRA for GPT2LMHeadModel", "sglang": "SGLang", "llama.cpp": "transposes"}
    for server, match in refused_for.items():
        with pytest.raises(UnsupportedError, match=match):
            to_lora(case.adapter, tmp_path / "no", base=case.base, server=server)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bloom", "falcon", "stablelm"])
def test_vllm_has_no_lora_for_some_classes(name: str, made: Made) -> None:
    assert "merge" in refused("vllm", *made(name), f"vLLM {engines()['vllm'].release} has no LoRA for ")


def test_vllm_s_embeddings_depend_on_the_class(made: Made, tmp_path: Path) -> None:
    adapter, base = made("llama", {"model.embed_tokens": EMBEDDING})
    assert to_lora(adapter, tmp_path / "lora", base=base, server="vllm").warnings == []
    adapter, base = made("qwen2", {"model.embed_tokens": EMBEDDING})
    refused("vllm", adapter, base, r"has no LoRA for model\.embed_tokens of Qwen2ForCausalLM")


def test_what_the_base_has_already_is_left_out(made: Made, tmp_path: Path) -> None:
    """An embedding's own weight, which PEFT saves along; another one would be lost in each program."""
    weight = np.arange(32 * 16, dtype=np.float32).reshape(32, 16)
    own = {"base_model.model.model.embed_tokens.base_layer.weight": weight}
    adapter, base = made("llama", {"model.embed_tokens": EMBEDDING}, own)
    assert [one for one in warned(adapter, base) if "isn't known without the base's weights" in one]
    assert "base=..." in refused("vllm", adapter, base, "isn't known without the base's weights")
    save_file({"model.embed_tokens.weight": weight}, base / "model.safetensors")
    for server in ("peft", "vllm", "sglang", "llama.cpp"):
        to_lora(adapter, tmp_path / server, base=base, server=server)  # type: ignore[arg-type]
        keys = load_file(tmp_path / server / "adapter_model.safetensors").keys()
        assert len(keys) == 2, server
    save_file({"model.embed_tokens.weight": weight + 1}, base / "model.safetensors")
    found = [one for one in warned(adapter, base) if "embed_tokens.weight" in one]
    assert [title for title in ("vLLM", "SGLang", "llama.cpp") for one in found if f"and {title} takes" in one] == [
        "vLLM",
        "SGLang",
        "llama.cpp",
    ]


def test_expressions_become_names(tmp_path: Path) -> None:
    """SGLang refuses a pattern in target_modules, and PEFT's own form has either."""
    case = fixture("peft020-seed-only")
    for server in ("peft", "sglang"):
        to_lora(case.adapter, tmp_path / server, base=case.base, server=server)  # type: ignore[arg-type]
        config = json.loads((tmp_path / server / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(module["name"] for module in case.modules)


def test_ranks_that_vllm_serves(made: Made) -> None:
    """Its limit on ranks is one of a few numbers, of which the command has the least that is enough."""
    adapter, base = made("llama", {LAYER + "self_attn.o_proj": LINEAR})
    report = to_lora([adapter] * 9, adapter.parent / "lora", base=base, server="vllm")
    assert (report.rank, "--max-lora-rank 32 " in report.serve[0]) == (18, True)
    with pytest.raises(UnsupportedError, match="has rank 514, and vLLM takes at most 512"):
        to_lora([adapter] * 257, adapter.parent / "no", base=base, server="vllm")


@pytest.mark.parametrize("names", [["q_proj"], ["k_proj", "v_proj"]])
def test_sglang_takes_queries_with_values_alone(names: list[str], made: Made) -> None:
    """It looks for v_proj beside each q_proj when it fuses them, and for q_proj to begin with."""
    modules = {f"{LAYER}self_attn.{name}": LINEAR._replace(out_features=16 if name[0] == "q" else 8) for name in names}
    assert "merge" in refused("sglang", *made("llama", modules), "without both q_proj and v_proj")
    up = {LAYER + "mlp.up_proj": cases.Shape("Linear", 24, 16)}
    refused("sglang", *made("llama", up), "up_proj without gate_proj")


def test_sglang_loses_what_is_outside_of_layers(made: Made, tmp_path: Path) -> None:
    case = fixture("peft020-bert-bias")
    assert warned_to(case)
    adapter, base = made("gptneox", {"gpt_neox.embed_in": EMBEDDING})
    report = to_lora(adapter, tmp_path / "lora", base=base, server="sglang")
    assert report.warnings == [
        f"SGLang {engines()['sglang'].release} has no GPTNeoXForCausalLM of its own, and what it takes where it runs "
        "transformers' isn't known"
    ]


def test_without_a_configuration_nothing_is_taken_for_granted(tmp_path: Path, made: Made) -> None:
    adapter, _ = made("llama", {LAYER + "self_attn.o_proj": LINEAR})
    for server in ("vllm", "sglang"):
        with pytest.raises(UndeterminedError, match=r"no config\.json tells .* whether its module is a layer that the"):
            to_lora(adapter, tmp_path / "no", server=server)  # type: ignore[arg-type]
        with described_by("plain"):
            taken, warning = to_lora(adapter, tmp_path / server, server=server).warnings  # type: ignore[arg-type]
        assert "no config.json tells the architecture, and with it whether its module is a layer that the" in taken
        assert taken.endswith("It is taken for granted, as tinylora_tools.described_by(architecture='plain') says")
        assert "no config.json of the base tells its class" in warning
    with pytest.raises(UndeterminedError, match=r"no config\.json"):
        to_lora(adapter, tmp_path / "no", server="llama.cpp")
    with pytest.raises(UnsupportedError, match="isn't among the classes whose LoRA was compared with mlx-lm's"):
        to_lora(adapter, tmp_path / "no", server="mlx")
