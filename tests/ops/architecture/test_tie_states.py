"""Ties in every state of config.json."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import small_families
import transformers

from tinylora_tools.bases.architectures.ties import STATES, state_of
from tinylora_tools.ops.architecture.tie_states import text_path, tied_unasked, ties_of


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "Gemma3ForConditionalGeneration"])
def test_each_state_is_what_transformers_loads(name: str) -> None:
    model_class = getattr(transformers, name)
    config = small_families.small_config(model_class.config_class.model_type)
    config.architectures = [name]
    [tie], flags = ties_of(model_class, config)
    path = text_path(config)
    for top, text in itertools.product(STATES, STATES if path else (None,)):
        settings: dict[str, Any] = config.to_dict()
        for where, value in ((settings, top), (settings.get(path, {}), text)):
            where.pop("tie_word_embeddings", None)
            if value is not None:
                where["tie_word_embeddings"] = value
        model = model_class(model_class.config_class.from_dict(settings))
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert (tie["tied"][state_of(settings, flags)] == "T") == tied, (top, text)
        if top is None and text is None:
            assert bool(tied_unasked(model_class, config)) == tied


def test_a_class_without_a_head_has_none() -> None:
    assert ties_of(transformers.LlamaModel, small_families.small_config("llama")) == ([], [])
