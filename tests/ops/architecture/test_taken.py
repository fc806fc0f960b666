"""Whose weight is taken: by what PEFT's live forward and its merged one compute, and in classes made for it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import small_families
import torch
import transformers
from family_runs import inputs_for, outputs_of

from tinylora_tools.bases.architectures.layout import generalised
from tinylora_tools.ops.architecture import describe
from tinylora_tools.ops.architecture.build import build, kind_of
from tinylora_tools.ops.architecture.taken import taken_in, whole_where

pytestmark = pytest.mark.filterwarnings("ignore")

_PERCEIVER = {
    "num_latents": 8, "d_latents": 32, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 1,
    "max_position_embeddings": 32,
}  # fmt: skip
_RELATIVE = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}


def live_and_merged(model: Any, targets: list[str], inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The model's outputs, PEFT's with an adapter of these modules, and those with its updates in the weights."""
    import peft

    config = peft.TinyLoraConfig(r=2, u=4, target_modules=targets, weight_tying=0.0)
    live = peft.get_peft_model(copy.deepcopy(model), config).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if "tinylora_v" in name:
                parameter.uniform_(-0.5, 0.5)
    merged = copy.deepcopy(live)
    merged.merge_adapter()
    return tuple(outputs_of(one, inputs) for one in (copy.deepcopy(model), live, merged))  # type: ignore[return-value]


def small(class_name: str, changes: dict[str, Any]) -> Any:
    model_class = getattr(transformers, class_name)
    config = small_families.small_config(model_class.config_class.model_type, **changes)
    return small_families.random_model(model_class, config, torch.float32)


@pytest.mark.parametrize(
    ("class_name", "changes", "pattern"),
    [
        ("BloomForCausalLM", {"pretraining_tp": 2, "slow_but_exact": True}, "transformer.h.*.mlp.dense_4h_to_h"),
        ("DebertaV2ForSequenceClassification", _RELATIVE, "deberta.encoder.rel_embeddings"),
        ("FalconMambaForCausalLM", {}, "backbone.layers.*.mixer.dt_proj"),
        ("JambaForCausalLM", {}, "model.layers.*.mamba.dt_proj"),
        ("MambaForCausalLM", {}, "backbone.layers.*.mixer.dt_proj"),
        ("MobileBertForMaskedLM", {}, "cls.predictions.decoder"),
        (
            "PerceiverForMaskedLM",
            _PERCEIVER,
            "perceiver.input_preprocessor.embeddings",
        ),  # handed to the head, which takes it
        ("ProphetNetForCausalLM", {}, "prophetnet.decoder.ngram_embeddings"),
        ("Qwen2AudioEncoder", {}, "embed_positions"),
        ("RwkvForCausalLM", {"num_hidden_layers": 8}, "rwkv.blocks.*.attention.output"),  # divided in the sixth layer
        ("RwkvForCausalLM", {"num_hidden_layers": 8}, "rwkv.blocks.*.feed_forward.value"),
        ("SEWDForCTC", {}, "sew_d.encoder.encoder.rel_embeddings"),
        ("VoxtralEncoder", {}, "embed_positions"),
        ("WavLMForSequenceClassification", {}, "wavlm.encoder.layers.*.attention.out_proj"),
    ],
)
def test_an_update_of_a_taken_weight_is_not_what_peft_computes(
    class_name: str, changes: dict[str, Any], pattern: str
) -> None:
    model = small(class_name, changes)
    targets = [name for name in taken_in(model) if generalised(name) == pattern]
    assert targets
    plain, live, merged = live_and_merged(model, targets, inputs_for(model.config, model))
    effect = (merged - plain).abs().max()
    assert effect > 0
    assert (live - merged).abs().max() > 0.01 * effect


@pytest.mark.parametrize("slow_but_exact", [False, True])
@pytest.mark.parametrize("pretraining_tp", [1, 2])
def test_what_keeps_a_weight_from_being_taken(pretraining_tp: int, slow_but_exact: bool) -> None:
    """Each group of entries suffices and none is needless: that of a model as it is made by default."""
    default = small("BloomForCausalLM", {})
    groups = whole_where(default, default.config.to_dict())["transformer.h.0.mlp.dense_4h_to_h"]
    assert groups == [["pretraining_tp"], ["slow_but_exact"]]
    changes = {"pretraining_tp": pretraining_tp, "slow_but_exact": slow_but_exact}
    model = small("BloomForCausalLM", changes)
    targets = [name for name, _ in model.named_modules() if name.endswith("dense_4h_to_h")]
    plain, live, merged = live_and_merged(model, targets, inputs_for(model.config, model))
    right = bool((live - merged).abs().max() < 1e-3 * (merged - plain).abs().max())
    assert right == any(changes[entry] == getattr(default.config, entry) for (entry,) in groups)


class Taker(torch.nn.Module):
    def __init__(self, layer: torch.nn.Linear, *, sparse: bool = False, fast: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.sparse = sparse
        self.fast = fast


class BySparse(Taker):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h @ self.layer.weight if self.sparse else self.layer(h)


class ByFast(Taker):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h @ self.layer.weight if self.fast else self.layer(h)


CONFIG = {"sparse": False, "fast": False}


def test_of_several_that_may_take_a_weight_none_may() -> None:
    layer = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleList([BySparse(layer), ByFast(layer)])
    assert whole_where(model, CONFIG) == {"0.layer": [["sparse", "fast"]]}


def test_layers_of_one_pattern_need_what_each_of_them_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And shapes with other values than the defaults say nothing of groups that have those."""

    def found(*cases: tuple[dict[str, Any], dict[str, list[list[str]]]]) -> dict[str, list[dict[str, Any]]]:
        configs = [SimpleNamespace(to_dict=lambda values=values: values) for values, _ in cases]
        answers = iter([groups for _, groups in cases])
        monkeypatch.setattr(describe, "whole_where", lambda *_: next(answers))
        return describe._whole_where([None] * len(cases), configs)

    one, two, both = [["sparse"]], [["fast"]], [["sparse"], ["fast"]]
    assert found((CONFIG, {"0.layer": both})) == {"*.layer": [{"sparse": False}, {"fast": False}]}
    assert found((CONFIG, {"0.layer": one, "1.layer": both})) == {"*.layer": [{"sparse": False}]}
    assert found((CONFIG, {"0.layer": one, "1.layer": two})) == {"*.layer": []}
    assert found((CONFIG, {"0.layer": [[]], "1.layer": one})) == {"*.layer": [{"sparse": False}]}
    other = {"sparse": True, "fast": False}
    assert found((CONFIG, {"0.layer": both}), (other, {"0.layer": two})) == {
        "*.layer": [{"sparse": False}, {"fast": False}]
    }


@pytest.mark.parametrize("class_name", ["LlamaForCausalLM", "MambaForCausalLM", "UdopForConditionalGeneration"])
def test_training_and_what_the_code_itself_says_decide_on_no_weight(class_name: str) -> None:
    model = small(class_name, {})
    assert all([] in groups for groups in whole_where(model, model.config.to_dict()).values())


@pytest.mark.parametrize(
    "class_name",
    [
        "BambaForCausalLM", "BloomForCausalLM", "CLIPModel", "DebertaForMaskedLM", "FalconForCausalLM",
        "Gemma3nForCausalLM", "GPT2LMHeadModel", "LlamaForCausalLM", "Siglip2TextModel",
        "T5ForConditionalGeneration",
    ],
)  # fmt: skip
def test_updates_of_the_other_weights_are(class_name: str) -> None:
    """Of each Linear's and Conv1D's that isn't tied: an embedding may be tied to a head, which PEFT's merge changes."""
    model = small(class_name, {})
    named = dict(model.named_parameters(remove_duplicate=False))
    counts = [id(one) for one in named.values()]
    targets = [
        name
        for name, module in model.named_modules()
        if kind_of(module) in ("L", "C") and counts.count(id(module.weight)) == 1
    ]
    assert targets
    assert not taken_in(model) & {*targets}
    inputs = inputs_for(model.config, model)
    if class_name == "CLIPModel":
        inputs["pixel_values"] = torch.randn(2, 3, model.config.vision_config.image_size, 32)
    plain, live, merged = live_and_merged(model, targets, inputs)
    assert (live - merged).abs().max() < 1e-3 * (live - plain).abs().max()


@pytest.mark.parametrize(
    ("class_name", "taken"),
    [
        ("DetrForObjectDetection", {"model.query_position_embeddings"}),
        ("EdgeTamModel", {"mask_decoder.iou_token", "prompt_encoder.no_mask_embed", "prompt_encoder.point_embed"}),
        ("LayoutLMv3Model", {"encoder.rel_pos_bias", "encoder.rel_pos_x_bias", "encoder.rel_pos_y_bias"}),
        ("LongcatFlashForCausalLM", {"model.layers.*.mlp.router.classifier"}),
        ("Mask2FormerModel", {"transformer_module.level_embed", "transformer_module.queries_features"}),
        ("SamModel", {"prompt_encoder.no_mask_embed", "prompt_encoder.point_embed.*"}),
        ("Siglip2VisionModel", {"embeddings.position_embedding"}),
        ("Wav2Vec2ForXVector", {"tdnn.*.kernel"}),
    ],
)
def test_weights_that_are_taken_in_models_that_need_other_inputs(class_name: str, taken: set[str]) -> None:
    model_class = getattr(transformers, class_name)
    config = small_families.small_config(model_class.config_class.model_type)
    try:
        model = build(model_class, config)
    except ImportError as error:
        pytest.skip(str(error))
    assert taken <= {generalised(name) for name in taken_in(model)}
