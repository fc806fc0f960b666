"""TinyLoRA as LoRA: loaded by PEFT, its forward pass and its merge are the TinyLoRA adapter's."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from fixture_data import MERGEABLE, Fixture, fixture
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

from tinylora_tools.errors import MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.lora import to_lora

pytestmark = pytest.mark.filterwarnings("ignore")

#: Adapters of modules that the installed transformers doesn't have under these names.
OF_ANOTHER_TRANSFORMERS = {"peft019-experts"}


def convert(case: Fixture, output: Path, **options: Any) -> Any:
    return to_lora([case.adapter], output, base=case.base, **options)


def delta_of(lora: Path, module: str) -> np.ndarray[Any, Any]:
    """The update that a LoRA adapter describes, by PEFT's definition, (out, in) or (vocab, dim), in float64."""
    file, config = (
        read_header(lora / "adapter_model.safetensors"),
        json.loads((lora / "adapter_config.json").read_text()),
    )
    r, alpha = config["r"], config["lora_alpha"]
    for end, of in config["rank_pattern"].items():
        if module == end:
            r, alpha = of, config["alpha_pattern"][end]
    prefix = f"base_model.model.{module}."
    if f"{prefix}lora_embedding_A" in file.tensors:
        A, B = (file.read(f"{prefix}lora_embedding_{part}").astype(np.float64) for part in "AB")
        assert len(A) == r
        return alpha / r * (B @ A).T
    A, B = (file.read(f"{prefix}lora_{part}.weight").astype(np.float64) for part in "AB")
    assert len(A) == r
    return alpha / r * B @ A


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


def test_ranks_are_padded_or_told(tmp_path: Path) -> None:
    case = fixture("peft021-bias-own")
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapter, adapter)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = sorted(key for key in tensors if key.endswith("tinylora_A"))[0].removesuffix("A")
    tensors[first + "A"], tensors[first + "B"] = tensors[first + "A"][:1], tensors[first + "B"][:, :1]
    tensors[first + "P"] = tensors[first + "P"][:, :1, :1]
    config = json.loads((adapter / "adapter_config.json").read_text())
    save_file(tensors, path, metadata={"format": "pt"})
    base = case.base
    with pytest.raises(MismatchError, match="rank 1"):
        to_lora([adapter], tmp_path / "no", base=base)
    module = first.removeprefix("base_model.model.").removesuffix(".tinylora_")
    # an honest module of a smaller rank: a weight that has no more
    narrow = np.ones((1, tensors[first + "A"].shape[1]), np.float32)
    tensors[first + "A"], tensors[first + "B"] = narrow, np.ones((1, 1), np.float32)
    save_file(tensors, path, metadata={"format": "pt"})
    report = to_lora([adapter], tmp_path / "padded", base=base)
    assert (report.rank, report.ranks) == (config["r"], {})
    told = to_lora([adapter], tmp_path / "told", base=base, rank_pattern=True)
    assert told.ranks[module] == 1
    assert np.allclose(delta_of(tmp_path / "told", module), delta_of(tmp_path / "padded", module))


def test_several_adapters_become_one(tmp_path: Path) -> None:
    cases = [fixture("peft019-shared"), fixture("peft021-13-numbers")]
    base = cases[0].base
    report = to_lora([case.adapter for case in cases], tmp_path / "lora", base=base, scale=(1.0, 0.5))
    assert report.rank == 4
    deltas: dict[str, Any] = {}
    for case, scale in zip(cases, (1.0, 0.5), strict=True):
        for module in case.modules:
            deltas[module["name"]] = deltas.get(module["name"], 0) + scale * case.delta(module["name"])
    for module, exact in deltas.items():
        assert np.allclose(delta_of(tmp_path / "lora", module), exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    with pytest.raises(MismatchError, match="3 scales for 2"):
        to_lora([c.adapter for c in cases], tmp_path / "x", scale=(1.0, 2.0, 3.0))


def test_vllm_s_limits_are_told(tmp_path: Path) -> None:
    for name in ("peft021-bias-all", "peft021-embedding", "peft020-bert-bias"):
        case = fixture(name)
        if not any("tinylora" not in key for key in read_header(case.adapter / "adapter_model.safetensors").tensors):
            continue
        with pytest.raises(UnsupportedError, match="vLLM takes neither"):
            convert(case, tmp_path / name, server="vllm")
        assert not (tmp_path / name).exists()
    convert(fixture("peft021-13-numbers"), tmp_path / "fine", server="vllm", dtype="bfloat16")
    assert {i.dtype for i in read_header(tmp_path / "fine" / "adapter_model.safetensors").tensors.values()} == {"BF16"}


def test_an_adapter_that_can_t_be_reproduced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UndeterminedError, match="can't be reproduced"):
        convert(fixture("peft019-seed-only"), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_config_is_what_peft_writes(tmp_path: Path) -> None:
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), peft.LoraConfig(target_modules=["0"]))
    model.save_pretrained(tmp_path / "theirs")
    convert(fixture("peft021-13-numbers"), tmp_path / "ours")
    ours, theirs = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    of_the_adapter = {"r", "lora_alpha", "target_modules", "auto_mapping", "base_model_name_or_path", "task_type"}
    for key in ours.keys() - of_the_adapter:
        assert ours[key] == theirs[key], key
