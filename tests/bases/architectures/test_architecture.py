"""The data on architectures against the installed transformers."""

from __future__ import annotations

import datetime
import random
from typing import Any

import make_architectures as script
import pytest
import torch
import transformers

from tinylora_tools.bases.architectures import families, named
from tinylora_tools.bases.architectures.layout import KINDS
from tinylora_tools.bases.architectures.scaling import Scaling
from tinylora_tools.errors import UndeterminedError
from tinylora_tools.ops.architecture.build import kind_of

pytestmark = pytest.mark.filterwarnings("ignore")

#: What people of this year train: each by its model_type.
ASKED_FOR = {
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi",
    "phi3", "opt", "gpt2", "gpt_neox", "gptj", "falcon", "bloom", "stablelm", "cohere", "granite", "olmo2",
    "deepseek_v3", "smollm3", "bert", "roberta", "distilbert", "deberta-v2", "electra", "vit", "t5", "bart", "whisper",
    "qwen3_5", "qwen3_vl", "qwen2_5_vl", "gemma3", "gemma3n", "gemma4", "gpt_oss", "qwen3_next", "glm4", "glm4_moe",
    "mistral3", "llama4", "internvl", "paligemma", "smolvlm", "lfm2", "granitemoehybrid", "nemotron_h", "ernie4_5",
    "exaone4", "seed_oss", "olmo3", "deepseek_v2", "deepseek_v32", "deepseek_v4", "minimax", "modernbert", "mt5",
    "mbart", "clip", "siglip", "wav2vec2", "jamba", "mamba2", "deberta", "kimi_k25",
}  # fmt: skip

#: Families that the data have to know at least.
AT_LEAST = 640

#: Classes that a run of the ordinary tests rebuilds, others each day.
SAMPLE = 10


def every_class() -> list[tuple[str, str]]:
    """Each class that the newest release in the data has, with its family."""
    newest = families.releases()[0]
    return [
        (data["family"], name)
        for data in families.all_families()
        for name in data["releases"].get(newest, {"classes": {}})["classes"]
    ]


def sampled() -> list[Any]:
    """Parameters for all classes, all but the day's sample behind the slow mark."""
    everything = every_class()
    chosen = set(random.Random(datetime.date.today().toordinal()).sample(everything, SAMPLE))
    return [pytest.param(*one, marks=[] if one in chosen else [pytest.mark.slow], id=one[1]) for one in everything]


def test_knows_what_people_use() -> None:
    known = set(families.known_model_types())
    assert known >= ASKED_FOR
    assert len(known) >= AT_LEAST


def test_knows_every_family_of_peft_s_default_targets() -> None:
    from transformers import CONFIG_MAPPING

    from tinylora_tools.bases.selection import _default_table

    assert {kind for kind in _default_table() if kind in CONFIG_MAPPING} <= set(families.known_model_types())


@pytest.mark.parametrize(("family", "name"), sampled())
def test_a_class_is_as_the_data_describe_it(family: str, name: str) -> None:
    """At its full default depth: modules shuffled and sorted come back in named_modules() order, with their kinds; and
    names, ties, scales and the rest are described by the same words."""
    classes = script.classes(family)
    if name not in classes:
        pytest.skip(f"transformers {transformers.__version__} can't build it here: a package that it needs is missing")
    try:
        configs = script.shapes(family, name, classes[name])
    except ImportError as error:
        pytest.skip(str(error))
    found = named.from_config({"model_type": family, "architectures": [name]})
    assert found is not None
    data = families.family(family)
    assert data is not None
    for config in configs:
        with torch.device("meta"):
            model = classes[name](config)
        kinds = {n: kind for n, m in model.named_modules() if (kind := kind_of(m))}
        shuffled = list(kinds)
        random.Random(0).shuffle(shuffled)
        assert sorted(shuffled, key=found.described().layout.sort_key) == list(kinds)
        try:
            assert found.sort_modules(shuffled) == list(kinds)
        except UndeterminedError as error:  # two releases differ, and that is said
            assert "differently" in str(error)
        for module, kind in kinds.items():
            assert found.kind(module) == KINDS[kind]
    described = dict(data["releases"][families.releases()[0]]["classes"][name])
    older = [r["classes"].get(name) for r in list(data["releases"].values())[1:]]
    if transformers.__version__ == families.releases()[0]:
        from tinylora_tools.ops.architecture.describe import describe

        assert describe(classes[name], configs, older[0] if older else None) == described


def test_renames_and_prefixes() -> None:
    vit = named.from_class_name("ViTForImageClassification")
    assert vit is not None
    assert list(vit.stored_keys("vit.layers.3.attention.q_proj.weight"))[:1] == [
        "vit.encoder.layer.3.attention.attention.query.weight"
    ]
    gpt2 = named.from_config({"model_type": "gpt2"})
    assert gpt2 is not None
    assert "h.0.attn.c_attn.weight" in gpt2.stored_keys("transformer.h.0.attn.c_attn.weight")
    assert "transformer.h.0.attn.c_attn.weight" in gpt2.stored_keys("h.0.attn.c_attn.weight")
    mixtral = named.from_class_name("MixtralForCausalLM")
    assert mixtral is not None
    assert mixtral.fused("model.layers.0.mlp.experts.gate_up_proj")
    assert mixtral.kind("model.layers.0.block_sparse_moe.experts.7.w1") == "Linear"


def test_scaled_embeddings() -> None:
    configs: list[dict[str, Any]] = [{"model_type": f} for f in ("gemma3_text", "qwen2", "bart")]
    known = [named.from_config(c) for c in (*configs, {"model_type": "bart", "scale_embedding": True})]
    scalings = [
        found.scaling("model.decoder.embed_tokens" if found.model_type == "bart" else "model.embed_tokens", 64)
        for found in known
        if found
    ]
    assert scalings == [Scaling("buffer", 8.0), None, None, Scaling("number", 8.0)]
    gemma = named.from_config({"model_type": "gemma"})
    bart = named.from_class_name("BartModel")
    assert gemma is not None
    assert bart is not None
    assert gemma.scaling("model.embed_tokens", 64, "4") is None
    assert gemma.scaling("model.embed_tokens", 64, "5") == Scaling("buffer", 8.0)
    for found, module in ((gemma, "model.embed_tokens"), (bart, "shared")):
        with pytest.raises(UndeterminedError, match="scaled"):
            found.scaling(module, 64)


def test_scales_that_are_no_width_s() -> None:
    """From the configuration's entries: Gemma 3n's embeddings of each layer are as wide as all layers' together."""
    gemma3n = named.from_config({"model_type": "gemma3n_text", "hidden_size_per_layer_input": 256})
    assert gemma3n is not None
    assert gemma3n.scaling("model.embed_tokens_per_layer", 8960) == Scaling("buffer", 16.0)
    mbart = named.from_config({"model_type": "mbart"})
    off = named.from_config({"model_type": "mbart", "scale_embedding": False})
    m2m = named.from_config({"model_type": "m2m_100"})
    assert mbart is not None
    assert off is not None
    assert m2m is not None
    assert off.scaling("model.shared", 64) is None
    assert m2m.scaling("model.shared", 64) == Scaling("number", 8.0)  # its scale_embedding is true where it isn't said


def test_modules_that_do_more_than_their_kind_are_known() -> None:
    opt = named.from_class_name("OPTForCausalLM")
    assert opt is not None
    assert opt.kind("model.decoder.embed_positions") == "Embedding"
    assert not opt.is_plain("model.decoder.embed_positions")
    assert opt.is_plain("model.decoder.embed_tokens")


def test_names_of_releases_before_are_the_same_modules() -> None:
    """Models for text and images had their checkpoints' names before transformers 4.52."""
    found = named.from_config({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]})
    assert found is not None
    old = "language_model.model.layers.3.mlp.up_proj"
    assert found.kind(old) == "Linear"
    assert f"{old}.weight" in found.stored_keys(f"{old}.weight")
    assert found.sort_modules([f"{old}", "language_model.model.layers.3.mlp.gate_proj"])[-1] == old


def test_other_inner_models_are_not_the_default_s() -> None:
    """LLaVA's text model may be one of several that are alike; of others nothing is known."""
    for text, known in (("mistral", True), ("qwen2", True), ("mamba", False)):
        config = {"model_type": "llava", "text_config": {"model_type": text}}
        assert (named.from_config(config) is not None) == known


def test_what_stays_in_float32() -> None:
    t5 = named.from_config({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    assert t5 is not None
    wo = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    assert t5.in_float32(wo, "float16")
    assert not t5.in_float32(wo, "bfloat16")
    assert not t5.in_float32("encoder.block.0.layer.0.SelfAttention.q.weight", "float16")


def test_both_generations_of_names_sort() -> None:
    mixtral = named.from_class_name("MixtralForCausalLM")
    assert mixtral is not None
    old = [
        f"model.layers.{i}.block_sparse_moe.experts.{e}.w{w}" for i in range(12) for e in range(11) for w in (1, 2, 3)
    ]
    assert mixtral.sort_modules(sorted(old)) == old


def test_unknown_modules_and_models_are_said_so() -> None:
    llama = named.from_config({"architectures": ["LlamaForCausalLM"]})
    assert llama is not None
    with pytest.raises(UndeterminedError, match=r"no module model\.layers\.0\.mamba") as caught:
        llama.sort_modules(["model.layers.0.self_attn.q_proj", "model.layers.0.mamba"])
    assert "module_order=..." in (caught.value.hint or "")
    assert named.from_config({"model_type": "nobody"}) is None
    assert named.from_class_name("NobodyForCausalLM") is None


def test_ties_are_not_known_without_a_configuration() -> None:
    by_class = named.from_class_name("Qwen2ForCausalLM")
    assert by_class is not None
    assert [tie.holds for tie in by_class.ties.all] == [None]


@pytest.mark.parametrize(
    ("config", "parameter", "said"),
    [
        (
            {"model_type": "zamba2", "architectures": ["Zamba2ForCausalLM"], "hybrid_layer_ids": [1, 3, 5]},
            "model.layers.1.shared_transformer.self_attn.q_proj.weight",
            "ties weights of its numbered layers",
        ),
        (
            {"model_type": "marian", "architectures": ["MarianMTModel"], "tie_encoder_decoder": True},
            "model.encoder.layers.0.fc1.weight",
            "tie_encoder_decoder",
        ),
        (
            {"model_type": "marian", "architectures": ["MarianMTModel"], "share_encoder_decoder_embeddings": False},
            "model.decoder.embed_tokens.weight",
            None,
        ),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "lm_head.weight", None),
        ({"model_type": "qwen2"}, "model.layers.0.mlp.up_proj.weight", None),
    ],
)
def test_ties_that_other_entries_decide_are_not_known(config: dict[str, Any], parameter: str, said: str | None) -> None:
    found = named.from_config(config)
    assert found is not None
    assert (found.ties.unclear(parameter) or "").find(said or "") >= 0
    assert (found.ties.unclear(parameter) is None) == (said is None)


def test_ties_that_other_entries_than_the_flag_decide() -> None:
    """As transformers 5 builds them."""
    marian = {"model_type": "marian", "architectures": ["MarianMTModel"]}
    members = {}
    for shared in (True, False):
        found = named.from_config({**marian, "share_encoder_decoder_embeddings": shared})
        assert found is not None
        tie = found.ties.of("model.decoder.embed_tokens.weight")
        assert tie is not None
        assert tie.holds is not False
        members[shared] = set(tie.members)
        config = transformers.MarianConfig(share_encoder_decoder_embeddings=shared)
        with torch.device("meta"):
            model = transformers.MarianMTModel(config)
        model.tie_weights()
        named_parameters = dict(model.named_parameters(remove_duplicate=False))
        one = named_parameters["model.decoder.embed_tokens.weight"]
        assert members[shared] == {name for name, parameter in named_parameters.items() if parameter is one}
    assert members[False] < members[True]
    omni = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniForConditionalGeneration"]}
    for tied in (True, False):
        thinker = named.from_config({**omni, "thinker_config": {"tie_word_embeddings": tied}})
        assert thinker is not None
        tie = thinker.ties.of("thinker.lm_head.weight")
        assert tie is not None
        assert (tie.holds, tie.optional) == (tied, True)
        assert "thinker_config.tie_word_embeddings" in thinker.ties.flags


def test_what_one_release_takes_for_more_than_its_kind_is_asked_for() -> None:
    found = named.from_config({"model_type": "videomae", "architectures": ["VideoMAEForVideoClassification"]})
    assert found is not None
    query = "videomae.encoder.layer.0.attention.attention.query"
    assert found.is_plain(query, "5") != found.is_plain(query, "4")
    with pytest.raises(UndeterminedError, match="does more than its kind under one release"):
        found.is_plain(query)
