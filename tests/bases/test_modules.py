"""The modules read off a checkpoint's headers against those of the model that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import make_architectures as script
import pytest
import small_families
import transformers
from fixture_data import fixture

from tinylora_tools.bases.architectures import named
from tinylora_tools.bases.architectures.layout import KINDS
from tinylora_tools.bases.modules import model_modules, require_order
from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.ops.architecture.build import kind_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

#: Families whose every class is built small, saved and read again.
FAMILIES = (
    "bart", "bert", "bloom", "cohere2", "deberta-v2", "deepseek_v3", "falcon", "gemma2", "gemma3", "gpt2", "llava",
    "mixtral", "opt", "phi3", "qwen2", "qwen3_moe", "qwen3_vl", "roberta", "t5", "vit",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_are_the_model_s(family: str, tmp_path: Path, leave_uninitialised: Callable[[type], None]) -> None:
    """Every class of the family, tied and not: names, order, types and shapes."""
    for name, model_class in script.classes(family).items():
        for tied in (False, True):
            leave_uninitialised(model_class)
            config = small_families.small_config(family, tie_word_embeddings=tied)
            config.architectures = [name]
            model = model_class(config)
            directory = tmp_path / f"{name}-{tied}"
            model.save_pretrained(directory)
            base = read_checkpoint(directory)
            found = model_modules(base, named.from_config(base.config or {}))
            theirs = {n: m for n, m in model.named_modules() if kind_of(m)}
            assert list(found.modules) == list(theirs), name
            for module, layer in theirs.items():
                assert found.modules[module].kind == KINDS[kind_of(layer) or ""]
                assert found.modules[module].tensor.shape == tuple(layer.weight.shape)
            output = model.get_output_embeddings()
            assert (found.output is None) == (output is None)
            assert output is None or theirs[found.output or ""] is output


def test_a_bare_checkpoint_is_loaded_into_the_class_with_a_head() -> None:
    base = read_checkpoint(fixture("peft021-bare").base)
    found = model_modules(base, named.from_config({**(base.config or {}), "architectures": ["GPT2LMHeadModel"]}))
    assert next(iter(found.modules)) == "transformer.wte"
    assert found.output == "lm_head"


def test_both_generations_of_names() -> None:
    base = read_checkpoint(fixture("peft019-experts").base)
    known = named.from_config(base.config or {})
    assert not any("experts" in name for name in model_modules(base, known).modules)
    old = model_modules(base, known, release="4").modules
    assert "model.layers.0.block_sparse_moe.experts.0.w1" in old


def test_layers_past_the_last_one_are_no_part_of_the_model(tmp_path: Path) -> None:
    """DeepSeek-V3's checkpoint has such a layer, for multi-token prediction, which transformers doesn't load."""
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 48}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(num_hidden_layers=3, **settings))
    model.save_pretrained(tmp_path / "m")
    model.model.save_pretrained(tmp_path / "bare")
    for directory, load in (
        (tmp_path / "m", transformers.AutoModelForCausalLM),
        (tmp_path / "bare", transformers.AutoModel),
    ):
        config = json.loads((directory / "config.json").read_text())
        config |= {"num_hidden_layers": 2, "layer_types": config["layer_types"][:2]}
        (directory / "config.json").write_text(json.dumps(config))
        base = read_checkpoint(directory)
        found = model_modules(base, named.from_config(config)).modules
        theirs = [n for n, m in load.from_pretrained(directory).named_modules() if kind_of(m)]
        assert list(found) == theirs
        assert sum(name.endswith("layers.1.mlp.up_proj") for name in found) == 1


def test_without_an_architecture_names_are_the_tensors(tmp_path: Path) -> None:
    base = read_checkpoint(fixture("peft021-layers").base / "model.safetensors")
    found = model_modules(base, None)
    assert found.modules["model.embed_tokens"].kind == "Embedding"
    assert found.modules["model.layers.1.mlp.up_proj"].kind == "Linear"
    with pytest.raises(UndeterminedError, match="order of modules") as caught:
        require_order(found, base)
    assert "module_order=..." in str(caught.value.hint)


def test_module_order_is_followed_and_checked() -> None:
    base = read_checkpoint(fixture("peft021-layers").base)
    names = ["model.layers.1.mlp.up_proj", "model.layers.0.mlp.up_proj"]
    assert list(model_modules(base, None, module_order=names).modules) == names
    with pytest.raises(MismatchError, match="no weight matrix"):
        model_modules(base, None, module_order=["model.layers.99.mlp.up_proj"])


def test_a_class_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    base = read_checkpoint(fixture("peft021-layers").base)
    config = json.loads((fixture("peft021-layers").base / "config.json").read_text())
    with pytest.raises(UndeterminedError, match="no class 'Nobody'"):
        model_modules(base, named.from_config({**config, "architectures": ["Nobody"]}))


def test_layers_past_a_text_model_s_last_one_are_no_part_of_the_model(tmp_path: Path) -> None:
    config = small_families.small_config("qwen3_vl")
    name = "Qwen3VLForConditionalGeneration"
    config.architectures = [name]
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(settings))
    base = read_checkpoint(tmp_path)
    found = model_modules(base, named.from_config(settings)).modules
    assert "model.language_model.layers.2.mlp.up_proj" in found
    assert not any(".language_model.layers.3." in module for module in found)
