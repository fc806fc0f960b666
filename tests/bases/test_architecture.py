"""The data on architectures against the installed transformers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import make_architectures as script
import pytest
import torch
import transformers

from tinylora_tools.bases import architecture
from tinylora_tools.cli.init import command as init_command
from tinylora_tools.errors import UndeterminedError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

ASKED_FOR = {
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi",
    "phi3", "opt", "gpt2", "gpt_neox", "gptj", "falcon", "bloom", "stablelm", "cohere", "granite", "olmo2",
    "deepseek_v3", "smollm3", "bert", "roberta", "distilbert", "deberta-v2", "electra", "vit", "t5", "bart", "whisper",
}  # fmt: skip

#: Families of which transformers 5 registers some modules in another order than 4 did: with those, it is ambiguous.
REORDERED = {"roberta", "xlm-roberta"}


def test_knows_what_people_use() -> None:
    assert set(architecture.known_model_types()) >= ASKED_FOR


@pytest.mark.parametrize("family", architecture.known_model_types())
def test_order_and_types_are_those_of_named_modules(family: str, leave_uninitialised: Callable[[type], None]) -> None:
    """Every class of the family, in every shape: modules shuffled and sorted come back in named_modules() order."""
    names, _ = script.classes(family)
    assert names
    for config in script.configurations(family):
        for name in names:
            model_class = getattr(transformers, name)
            leave_uninitialised(model_class)
            config.architectures = [name]
            with torch.device("meta"):
                model = model_class(config)
            kinds = {n: kind for n, m in model.named_modules() if (kind := script.kind_of(m))}
            found = architecture.from_config({"model_type": family, "architectures": [name]})
            assert found is not None
            shuffled = list(kinds)
            random.Random(0).shuffle(shuffled)
            if family in REORDERED:
                try:
                    order = found.sort_modules(shuffled)
                except UndeterminedError as error:
                    assert "differently" in str(error)  # honest: the newer release's own order is checked instead
                    order = sorted(shuffled, key=found._generations[0].sort_key)
            else:
                order = found.sort_modules(shuffled)
            assert order == list(kinds), name
            for module, kind in kinds.items():
                assert (found.kind(module) or "?")[0] == kind, module


def stored_and_ties(model_class: Any, config: Any, family: str) -> None:
    found = architecture.from_config({"model_type": family, "architectures": [model_class.__name__]})
    assert found is not None
    config.tie_word_embeddings = False
    for parameter, key in script.stored_names(model_class, config)[0].items():
        one = parameter.replace("*", "1")
        assert found.stored_keys(one)[0] == key.replace("*", "1"), parameter
    config.tie_word_embeddings = True
    for group in script.tied_groups(model_class, config):
        tie = found.ties(group["members"][0])
        assert tie is not None
        assert set(tie.members) == set(group["members"])
        assert not tie.optional or group["optional"]


@pytest.mark.parametrize("family", architecture.known_model_types())
def test_stored_names_and_ties_are_those_of_save_pretrained(
    family: str, leave_uninitialised: Callable[[type], None]
) -> None:
    """For the class with a head that each family is best known for."""
    names, bare = script.classes(family)
    known = [name for name in names if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))]
    name = (known or [name for name in names if name.endswith("ForMaskedLM")] or [bare])[-1]
    config = next(script.configurations(family))
    config.architectures = [name]
    leave_uninitialised(getattr(transformers, name))
    stored_and_ties(getattr(transformers, name), config, family)


def test_renames_and_prefixes() -> None:
    vit = architecture.from_class_name("ViTForImageClassification")
    assert vit is not None
    assert vit.stored_keys("vit.layers.3.attention.q_proj.weight")[:1] == [
        "vit.encoder.layer.3.attention.attention.query.weight"
    ]
    gpt2 = architecture.from_config({"model_type": "gpt2"})
    assert gpt2 is not None
    assert "h.0.attn.c_attn.weight" in gpt2.stored_keys("transformer.h.0.attn.c_attn.weight")
    assert "transformer.h.0.attn.c_attn.weight" in gpt2.stored_keys("h.0.attn.c_attn.weight")
    mixtral = architecture.from_class_name("MixtralForCausalLM")
    assert mixtral is not None
    assert mixtral.fused("model.layers.0.mlp.experts.gate_up_proj")
    assert mixtral.kind("model.layers.0.block_sparse_moe.experts.7.w1") == "Linear"


def test_scaled_embeddings() -> None:
    configs: list[dict[str, Any]] = [{"model_type": f} for f in ("gemma3_text", "qwen2", "bart")]
    known = [architecture.from_config(c) for c in (*configs, {"model_type": "bart", "scale_embedding": True})]
    scalings = [
        found.scaling("model.decoder.embed_tokens" if found.model_type == "bart" else "model.embed_tokens")
        for found in known
        if found
    ]
    assert scalings == ["buffer", None, None, "number"]
    gemma = architecture.from_config({"model_type": "gemma"})
    bart = architecture.from_class_name("BartModel")
    assert gemma is not None
    assert bart is not None
    assert (gemma.scaling("model.embed_tokens", "4"), gemma.scaling("model.embed_tokens", "5")) == (None, "buffer")
    for found, module in ((gemma, "model.embed_tokens"), (bart, "shared")):
        with pytest.raises(UndeterminedError, match="scaled"):
            found.scaling(module)


def test_both_generations_of_names_sort() -> None:
    mixtral = architecture.from_class_name("MixtralForCausalLM")
    assert mixtral is not None
    old = [
        f"model.layers.{i}.block_sparse_moe.experts.{e}.w{w}" for i in range(12) for e in range(11) for w in (1, 2, 3)
    ]
    assert mixtral.sort_modules(sorted(old)) == old


def test_unknown_modules_and_models_are_said_so() -> None:
    llama = architecture.from_config({"architectures": ["LlamaForCausalLM"]})
    assert llama is not None
    with pytest.raises(UndeterminedError, match=r"no module model\.layers\.0\.mamba") as caught:
        llama.sort_modules(["model.layers.0.self_attn.q_proj", "model.layers.0.mamba"])
    assert "module_order=..." in (caught.value.hint or "")
    assert architecture.from_config({"model_type": "nobody"}) is None
    assert architecture.from_class_name("NobodyForCausalLM") is None


def test_the_command_line_offers_every_task_type() -> None:
    offered = [option for option in init_command.params if option.name == "task_type"]
    assert [list(option.type.choices) for option in offered] == [[*architecture._TASK_CLASSES, "FEATURE_EXTRACTION"]]  # type: ignore[attr-defined]
