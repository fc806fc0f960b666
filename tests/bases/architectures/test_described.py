"""One class of one release."""

from __future__ import annotations

from typing import Any

from tinylora_tools.bases.architectures.described import Described

HEAD: dict[str, Any] = {
    "modules": "model(visual.proj language_model(embed_tokens:E layers.*.up)) lm_head",
    "prefix": "model",
    "stored": {"model.visual": "visual", "model.language_model": "model"},
    "float32": ["up", "lm_head.weight"],
    "float32_always": ["visual"],
}


def test_a_checkpoint_s_names_become_the_model_s() -> None:
    one = Described("5.0", "Head", HEAD)
    hub = ["visual.proj.weight", "model.embed_tokens.weight", "model.layers.0.up.weight", "model.norm.weight"]
    assert one.parameters_of([*hub, "lm_head.weight"]) == {
        "model.visual.proj.weight": "visual.proj.weight",
        "model.language_model.embed_tokens.weight": "model.embed_tokens.weight",
        "model.language_model.layers.0.up.weight": "model.layers.0.up.weight",
        "model.language_model.norm.weight": "model.norm.weight",
        "lm_head.weight": "lm_head.weight",
    }
    native = ["model.visual.proj.weight", "model.language_model.layers.0.up.weight", "model.language_model.norm.weight"]
    assert one.parameters_of(native) == {name: name for name in native}


def test_the_bare_model_s_prefix_is_added_or_left_out() -> None:
    head = Described("5.0", "Head", {"modules": "model(layers.*.up) lm_head", "prefix": "model"})
    bare = Described("5.0", "Bare", {"modules": "layers.*.up", "prefix": "model"})
    assert head.parameters_of(["layers.0.up.weight", "norm.weight"]) == {
        "model.layers.0.up.weight": "layers.0.up.weight",
        "model.norm.weight": "norm.weight",
    }
    assert bare.parameters_of(["model.layers.0.up.weight", "model.norm.weight", "lm_head.weight"]) == {
        "layers.0.up.weight": "model.layers.0.up.weight",
        "norm.weight": "model.norm.weight",
    }
    assert bare.stored_keys("layers.0.up.weight") == ["layers.0.up.weight", "model.layers.0.up.weight"]


def test_older_names_are_found_too() -> None:
    one = Described("5.0", "Head", {**HEAD, "older": {"model.visual": "visual.tower", "model.language_model": "model"}})
    assert one.stored_keys("model.visual.proj.weight")[:2] == ["visual.proj.weight", "visual.tower.proj.weight"]
    assert one.parameters_of(["visual.tower.proj.weight"]) == {"model.visual.proj.weight": "visual.tower.proj.weight"}


def test_what_stays_in_float32() -> None:
    one = Described("5.0", "Head", HEAD)
    assert one.in_float32("model.language_model.layers.0.up.weight", "float16")
    assert not one.in_float32("model.language_model.layers.0.up.weight", "bfloat16")
    assert one.in_float32("model.visual.proj.weight", "bfloat16")
    assert Described("5.0", "Head", HEAD).in_float32("model.upper.weight", "float16")  # transformers 5 searches
    assert not Described("4.57", "Head", HEAD).in_float32("model.upper.weight", "float16")  # 4 wants the whole part


def test_names_from_tensorflow_are_found() -> None:
    """bert-base-uncased's."""
    one = Described("5.0", "Bare", {"modules": "encoder.layer.*(output.dense)", "prefix": "bert"})
    keys = ["bert.encoder.layer.0.output.LayerNorm.gamma", "bert.encoder.layer.0.output.LayerNorm.beta"]
    names = ["encoder.layer.0.output.LayerNorm.weight", "encoder.layer.0.output.LayerNorm.bias"]
    dense = "bert.encoder.layer.0.output.dense.weight"
    assert one.parameters_of([*keys, dense]) == {**dict(zip(names, keys, strict=True)), dense[5:]: dense}
    assert keys[0] in one.stored_keys(names[0])
