"""Names of the model's parameters to tensors of a checkpoint, and what is tied to what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from damage import edit_json
from fixture_data import ROOT
from safetensors.numpy import save_file

from tinylora_tools.bases.architectures.named import from_config
from tinylora_tools.bases.tensor_names import BaseNames
from tinylora_tools.errors import FormatError, MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.formats.checkpoint import Checkpoint, read_checkpoint
from tinylora_tools.formats.memory_file import MemoryFile

BASES = sorted(path.name for path in (ROOT / "bases").iterdir())
#: transformers 5 fuses its experts.
UNLIKE = {"mixtral-bf16"}


def named(directory: Path) -> BaseNames:
    checkpoint = read_checkpoint(directory)
    return BaseNames(checkpoint, from_config(checkpoint.config or {}))


def made(config: dict[str, Any] | None, **tensors: Any) -> BaseNames:
    weights = {name.replace("__", "."): values for name, values in tensors.items()}
    file = MemoryFile(Path("base"), weights)
    return BaseNames(Checkpoint(Path("base"), config, (file,), dict.fromkeys(weights, 0)), from_config(config or {}))


@pytest.mark.parametrize("name", [name for name in BASES if name not in UNLIKE])
@pytest.mark.filterwarnings("ignore")
def test_every_parameter_that_transformers_loads_is_found(name: str) -> None:
    """Its values are those of the tensor; parameters that are one tensor in the model come as one group."""
    directory = ROOT / "bases" / name
    config = json.loads((directory / "config.json").read_text())
    class_name = {"GPT2Model": "GPT2LMHeadModel"}.get(config["architectures"][0], config["architectures"][0])
    model = getattr(transformers, class_name).from_pretrained(directory, dtype="auto")
    names = named(directory)
    alike: dict[int, set[str]] = {}
    for parameter, values in model.named_parameters(remove_duplicate=False):
        alike.setdefault(values.data_ptr(), set()).add(parameter)
        group = names.group(parameter)
        assert parameter in group.members
        found = names.base.read(group.stored).astype(np.float32)
        assert np.array_equal(found, values.detach().float().numpy()), parameter
    for members in alike.values():
        if name != "gpt2-bare-fp32":  # its configuration names the class without a head
            assert all(set(names.group(member).members) == members for member in members)
    assert names.notes == []


def test_ties_come_from_the_configuration(tmp_path: Path) -> None:
    directory = tmp_path / "base"
    directory.mkdir()
    for path in (ROOT / "bases" / "qwen2-tied-bf16").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    tied = named(directory)
    both = ["lm_head.weight", "model.embed_tokens.weight"]
    assert tied.tied
    assert sorted(tied.group("lm_head.weight").members) == both
    assert tied.group("lm_head.weight").stored == "model.embed_tokens.weight"
    assert tied.group("lm_head.weight").members["lm_head.weight"] == "lm_head.weight"  # where it would go
    assert [sorted(group.members) for group in tied.tied_groups()] == [both]
    assert tied.group("lm_head.weight").optional
    edit_json(directory / "config.json", tie_word_embeddings=False)
    untied = named(directory)
    assert list(untied.group("model.embed_tokens.weight").members) == ["model.embed_tokens.weight"]
    with pytest.raises(MismatchError, match=r"the checkpoint has no tensor for lm_head\.weight, which the adapter"):
        untied.group("lm_head.weight")


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"model_type": "gpt2"}, True),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "llama", "tie_word_embeddings": True}, True),
    ],
    ids=str,
)
def test_whether_embeddings_are_tied(config: dict[str, object], tied: bool) -> None:
    """As a model of this configuration has them."""
    found = from_config(config)
    assert found is not None
    assert [tie.holds for tie in found.ties.all] == [tied]
    small = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**{**config, **small, "vocab_size": 8})
    )
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_members_of_a_tie_that_are_stored_with_other_values_are_two_tensors() -> None:
    """As transformers 5 loads them, with a note; with the same values they are one."""
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True}
    W = np.arange(6, dtype=np.float32).reshape(3, 2)
    apart = made(config, model__embed_tokens__weight=W, lm_head__weight=W + 1)
    assert apart.group("lm_head.weight").stored == "lm_head.weight"
    assert list(apart.group("lm_head.weight").members) == ["lm_head.weight"]
    assert list(apart.group("model.embed_tokens.weight").members) == ["model.embed_tokens.weight"]
    assert apart.notes == [
        "lm_head.weight and model.embed_tokens.weight are stored with different values, though the configuration ties "
        "them: they are taken for two tensors, as transformers 5 does (and 4 doesn't)"
    ]
    for same in (W, W.astype(np.float16)):
        together = made(config, model__embed_tokens__weight=W, lm_head__weight=same)
        assert together.group("lm_head.weight").members.keys() == {"lm_head.weight", "model.embed_tokens.weight"}
        assert together.notes == []


def test_without_an_architecture_a_prefix_may_be_there_or_not() -> None:
    W = np.zeros((2, 2), np.float32)
    bare = made(None, h__0__w=W)
    assert bare.group("transformer.h.0.w").stored == "h.0.w"
    assert made(None, transformer__h__0__w=W).group("h.0.w").stored == "transformer.h.0.w"
    assert bare.kind("h.0") is None
    with pytest.raises(UndeterminedError, match=r"has no tensor for h\.0\.w, which the adapter changes, and no config"):
        made(None, a__h__0__w=W, b__h__0__w=W).group("h.0.w")  # which of the two isn't known


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head", "3"])
def test_what_may_be_an_embedding_or_a_head_has_to_be_known(name: str) -> None:
    """Nobody ties the weights inside a model's numbered layers; of the others only the architecture tells."""
    made({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}).require_known(name)
    for config, said in (
        (None, "no config.json tells the architecture"),
        ({"model_type": "nobody"}, "the architecture 'nobody' isn't known"),
    ):
        nobody = made(config)
        nobody.require_known("model.layers.3.mlp.up_proj")
        nobody.require_known("h.0.w")
        with pytest.raises(UndeterminedError) as caught:
            nobody.require_known(name)
        assert str(caught.value).startswith(f"base: {name}: {said}, and with it whether this is an embedding")


def test_experts_in_one_tensor_cannot_be_addressed_singly() -> None:
    fused = np.zeros((2, 2, 2), np.float32)
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    for known in (config, None):
        names = made(known, model__layers__0__block_sparse_moe__experts__gate_up_proj=fused)
        with pytest.raises(UnsupportedError, match="fused") as caught:
            names.group("model.layers.0.block_sparse_moe.experts.1.w1.weight")
        assert caught.value.hint == "Save the base with one tensor an expert, as the Hub's checkpoints are."
    with pytest.raises(UnsupportedError, match="its weights are fused with others in this checkpoint"):
        made(config).group("model.layers.0.mlp.experts.gate_up_proj")


def test_a_tensor_in_two_shards_is_an_error_to_who_asks_for_it(tmp_path: Path) -> None:
    for number, names in ((1, "ab"), (2, "bc")):
        save_file({name: np.zeros(2, np.float32) for name in names}, tmp_path / f"{number}.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    names = named(tmp_path)
    assert names.group("a").stored == "a"
    with pytest.raises(FormatError) as caught:
        names.group("b")
    assert str(caught.value) == (
        f"{tmp_path}: b is in 1.safetensors, as the index says, and in 2.safetensors, from which transformers may load "
        "it"
    )


def test_embeddings_are_kept_apart_wherever_a_flag_ties_them() -> None:
    """Qwen2.5-Omni's is its thinker's; what else stands there stays."""
    config = {
        "model_type": "qwen2_5_omni",
        "architectures": ["Qwen2_5OmniForConditionalGeneration"],
        "thinker_config": {"vocab_size": 8, "text_config": {"hidden_size": 4}},
    }
    flag = {"tie_word_embeddings": False}
    assert made(config).untied_config() == {
        **flag,
        "thinker_config": {"vocab_size": 8, "text_config": {"hidden_size": 4, **flag}, **flag},
    }
    assert "tie_word_embeddings" not in config["thinker_config"]  # type: ignore[operator]
    gone = {**config, "thinker_config": {"text_config": None}}
    assert made(gone).untied_config() == {**flag, "thinker_config": {"text_config": flag, **flag}}
