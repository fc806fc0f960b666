"""TinyLoRA as LoRA: loaded by PEFT, its forward pass and its merge are the TinyLoRA adapter's."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from fixture_data import MERGEABLE, Fixture, fixture
from lora_files import delta_of
from safetensors.torch import load_file as load_torch

from tinylora_tools.errors import MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.lora import to_lora

pytestmark = pytest.mark.filterwarnings("ignore")


#: Adapters of modules that the installed transformers doesn't have under these names.
OF_ANOTHER_TRANSFORMERS = {"peft019-experts"}


def convert(case: Fixture, output: Path, **options: Any) -> Any:
    return to_lora([case.adapter], output, base=case.base, **options)


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
def test_the_update_is_the_adapter_s(case: Fixture, tmp_path: Path) -> None:
    report = convert(case, tmp_path / "lora")
    assert report.modules == len(case.modules)
    for module in case.modules:
        exact = case.delta(module["name"])
        found = delta_of(tmp_path / "lora", module["name"])
        assert found.shape == exact.shape
        assert np.abs(found - exact).max() <= 2e-7 * max(1e-30, np.abs(exact).max()) * report.rank


@pytest.mark.parametrize(
    "case", [c for c in MERGEABLE if c.name not in OF_ANOTHER_TRANSFORMERS], ids=lambda case: case.name
)
def test_peft_loads_it_and_computes_the_same(case: Fixture, tmp_path: Path) -> None:
    convert(case, tmp_path / "lora")
    name = json.loads((case.base / "config.json").read_text())["architectures"][0]
    if case.name == "peft021-bare":
        name = "GPT2LMHeadModel"
    model_class = getattr(transformers, name)
    model = model_class.from_pretrained(case.base, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lora = peft.PeftModel.from_pretrained(model, tmp_path / "lora")
    assert not [text for w in caught if re.search("missing|unexpected", text := str(w.message))]
    again = peft.set_peft_model_state_dict(lora, load_torch(tmp_path / "lora" / "adapter_model.safetensors"))
    assert not again.unexpected_keys
    # PEFT's own reading of the TinyLoRA adapter, with the P and v of the fixture's live modules
    deltas = {module["name"]: torch.from_numpy(case.delta(module["name"])) for module in case.modules}
    layers = {n.removeprefix("base_model.model."): m for n, m in lora.named_modules()}
    for module, delta in deltas.items():
        own = layers[module].get_delta_weight("default").double()
        expected = delta.T if own.shape != delta.shape or case.modules_by_name[module]["kind"] == "Conv1D" else delta
        assert torch.allclose(own, expected, rtol=1e-4, atol=1e-6 * float(delta.abs().max()))
    before = {module: layers[module].get_base_layer().weight.detach().clone() for module in deltas}
    lora.set_adapter("default")
    lora.merge_adapter(["default"])
    for module, delta in deltas.items():
        merged = layers[module].get_base_layer().weight.detach().double() - before[module].double()
        expected = delta.T if case.modules_by_name[module]["kind"] == "Conv1D" else delta
        scale = float(delta.abs().max()) + float(before[module].abs().max())
        if case.name not in ("peft021-both-tied", "peft021-embedding", "peft021-lm-head"):  # tied: both are added there
            assert torch.allclose(merged, expected, rtol=0, atol=1e-6 * scale)


def test_forward_passes_agree(tmp_path: Path) -> None:
    """Linear with biases, an embedding and Conv1D, under PEFT's TinyLoRA and PEFT's LoRA."""
    for name in ("peft021-bias-all", "peft021-embedding", "peft020-gpt2", "peft021-t5", "peft020-bert-bias"):
        case = fixture(name)
        convert(case, tmp_path / name)
        model_class = getattr(transformers, json.loads((case.base / "config.json").read_text())["architectures"][0])
        ids = torch.arange(8).reshape(1, 8)
        results = []
        for adapter in (case.adapter, tmp_path / name):
            model = model_class.from_pretrained(case.base, dtype=torch.float32)
            loaded = peft.PeftModel.from_pretrained(model, adapter).eval()
            extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            with torch.no_grad():
                results.append(loaded(input_ids=ids, **extra)[0])
        assert torch.allclose(*results, atol=1e-5 * float(results[0].abs().max())), name


def test_vllm_s_limits_are_told(tmp_path: Path) -> None:
    for name, match in (
        ("peft021-bias-all", "vLLM takes neither"),
        ("peft021-embedding", "vLLM .* has no LoRA for model.embed_tokens of Qwen2ForCausalLM"),
    ):
        case = fixture(name)
        with pytest.raises(UnsupportedError, match=match):
            convert(case, tmp_path / name, server="vllm")
        assert not (tmp_path / name).exists()
    convert(fixture("peft021-13-numbers"), tmp_path / "fine", server="vllm", dtype="bfloat16")
    assert {i.dtype for i in read_header(tmp_path / "fine" / "adapter_model.safetensors").tensors.values()} == {"BF16"}


def test_an_adapter_that_can_t_be_reproduced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UndeterminedError, match="can't be reproduced"):
        convert(fixture("peft019-seed-only"), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_ranks_that_a_program_knows_nothing_of_are_refused(tmp_path: Path) -> None:
    """Two adapters, of which one targets only some modules of the other, make one of different ranks."""
    cases = [fixture("peft021-13-numbers"), fixture("peft021-layers")]
    both: dict[str, Any] = {"base": cases[0].base, "server": "sglang"}
    with pytest.raises(UnsupportedError, match="SGLang knows no rank_pattern") as caught:
        to_lora([case.adapter for case in cases], tmp_path / "no", rank_pattern=True, **both)
    assert caught.value.hint == "Leave rank_pattern out: ranks are padded with zeros."
    assert not (tmp_path / "no").exists()
    report = to_lora([case.adapter for case in cases], tmp_path / "lora", **both)
    assert (report.rank, report.ranks, report.modules) == (4, {}, 84)
    shapes = {
        i.shape[0] for n, i in read_header(tmp_path / "lora" / "adapter_model.safetensors").tensors.items() if "_A" in n
    }
    assert shapes == {4}


def test_adapters_of_different_bases_are_not_summed(tmp_path: Path) -> None:
    cases = [fixture("peft021-layers"), fixture("peft020-scalar")]
    with pytest.raises(MismatchError, match=r"name different bases: .*qwen2-bf16, .*llama-fp32") as caught:
        to_lora([case.adapter for case in cases], tmp_path / "lora")
    assert "say with base which" in (caught.value.hint or "")
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize("targets", [["q_proj"], ["embed_tokens", "q_proj"]], ids="-".join)
def test_a_vocabulary_that_was_resized_for_training_is_told_of(targets: list[str], tmp_path: Path) -> None:
    """PEFT then saves the embeddings whole; what comes of it loads only into a base that is resized as well."""
    base = fixture("peft021-layers").base

    def resized() -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        torch.manual_seed(0)
        model.resize_token_embeddings(101)
        return model

    config = peft.TinyLoraConfig(r=2, u=3, target_modules=targets, init_weights="uniform", init_v_bound=1.0)
    model = peft.get_peft_model(resized(), config)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    report = to_lora(tmp_path / "adapter", tmp_path / "lora", base=base)
    assert any(
        "model.embed_tokens.weight has 101 rows, the base's 96: the vocabulary was resized for training" in warning
        and "model.resize_token_embeddings(101)" in warning
        for warning in report.warnings
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora")
    lora = peft.PeftModel.from_pretrained(resized(), tmp_path / "lora").eval()
    ids = torch.arange(3, 27).reshape(2, 12)
    with torch.no_grad():
        plain, wanted, found = (one(ids).logits for one in (resized().eval(), model.eval(), lora))
    assert float((found - wanted).norm() / (wanted - plain).norm()) < 1e-4
    assert not any("rows" in warning for warning in to_lora(fixture("peft021-layers").adapter, tmp_path / "b").warnings)
