"""Every command that reads a base, with one in 8-bit blocks: as with the copy that transformers dequantizes; and with
one whose targets can't be dequantized."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import edit_json
from quantized_bases import adapted, loaded, quantized, saved_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config

from tinylora_tools import TinyLoraConfig, count, factor, init, merge, pack, to_lora, verify_base, verify_seed
from tinylora_tools.bases import held
from tinylora_tools.errors import TinyLoraError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = TinyLoraConfig(r=2, u=5, target_modules=("q_proj", "down_proj"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base in blocks, and the same as transformers loads it."""
    directory = tmp_path_factory.mktemp("bases")
    config = Qwen3Config(
        vocab_size=96, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip
    base = quantized(saved_model(directory / "blocks", config), lambda name: "_proj" in name)
    plain = saved_model(directory / "plain", config)
    save_file(loaded(base).state_dict(), plain / "model.safetensors", metadata={"format": "pt"})
    return base, plain


@pytest.fixture(scope="module")
def adapter(bases: tuple[Path, Path]) -> Path:
    path = bases[0].parent / "adapter"
    adapted(bases[0], path, ["q_proj", "down_proj"])
    return path


def files(directory: Path) -> dict[str, bytes]:
    paths = [directory] if directory.is_file() else directory.rglob("*.safetensors")
    return {path.name: path.read_bytes() for path in paths}


def test_new_adapters(bases: tuple[Path, Path], tmp_path: Path) -> None:
    for base in bases:
        (tmp_path / base.name).mkdir()
        factor(base, tmp_path / base.name / "f.safetensors", CONFIG)
        init(base, tmp_path / base.name / "adapter", replace(CONFIG, modules_to_save=("o_proj",)))
    assert files(tmp_path / "blocks") == files(tmp_path / "plain")
    saved = load_file(tmp_path / "blocks" / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for name, t in saved.items() if "o_proj" in name} == {torch.bfloat16}
    assert not any("scale" in name for name in saved)
    ours, theirs = (count(base, CONFIG) for base in bases)
    assert replace(ours, base="") == replace(theirs, base="")


def test_checks(bases: tuple[Path, Path], adapter: Path) -> None:
    ours, theirs = (verify_base(adapter, base) for base in bases)
    assert ours.modules == theirs.modules
    assert (ours.verdict, ours.recomputed) == ("same-weights", 4)
    assert {name for name in ours.not_compared if "_scale" not in name} == set(theirs.not_compared)
    looked_at = [report.tensors - len(report.not_compared) for report in (ours, theirs)]
    assert looked_at == [8, 4]  # the scales, too
    assert verify_seed(adapter, base=bases[0]).ok


def test_packed(bases: tuple[Path, Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are kept in memory are kept as they are stored, and summed as those that are read again."""
    for base in bases:
        pack(adapter, tmp_path / f"{base.name}.safetensors", base=base, exact=True)
    packed = tmp_path / "blocks.safetensors"
    assert packed.read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    merge(adapter, tmp_path / "unpacked", base=bases[0])
    merge(packed, tmp_path / "held", base=bases[0])
    monkeypatch.setattr(held, "memory_at_hand", lambda: 0)
    merge(packed, tmp_path / "read", base=bases[0])
    assert files(tmp_path / "unpacked") == files(tmp_path / "held") == files(tmp_path / "read")


def test_lora_needs_no_weight(bases: tuple[Path, Path], adapter: Path, tmp_path: Path) -> None:
    for base in bases:
        to_lora(adapter, tmp_path / base.name, base=base)
    assert files(tmp_path / "blocks") == files(tmp_path / "plain")


@pytest.fixture(scope="module")
def packed_weights(bases: tuple[Path, Path]) -> Path:
    """The base with q_proj as GPTQ stores it."""
    path = bases[1].parent / "gptq"
    shutil.copytree(bases[1], path)
    tensors = load_file(path / "model.safetensors")
    for name in [name for name in tensors if "q_proj.weight" in name]:
        owner, weight = name.removesuffix(".weight"), tensors.pop(name)
        tensors[f"{owner}.qweight"] = torch.zeros(weight.shape[1] // 8, weight.shape[0], dtype=torch.int32)
        tensors[f"{owner}.scales"] = torch.ones(1, weight.shape[0], dtype=torch.float16)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    return path


SAID = r"q_proj is stored as model\.layers\.\d\.self_attn\.q_proj\.qweight \(I32\): the base is quantized \(gptq\)"


def test_quantized_targets_are_refused(packed_weights: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    everything = TinyLoraConfig(r=2, target_modules="all-linear")
    attempts: list[Any] = [
        lambda: count(packed_weights, CONFIG),
        lambda: count(packed_weights, everything),
        lambda: count(packed_weights, TinyLoraConfig()),  # PEFT's defaults: q_proj and v_proj
        lambda: init(packed_weights, tmp_path / "out", CONFIG),
        lambda: factor(packed_weights, out, CONFIG),
        lambda: merge(adapter, tmp_path / "out", base=packed_weights),
        lambda: pack(adapter, out, base=packed_weights),
    ]
    for attempt in attempts:
        with pytest.raises(UnsupportedError, match=SAID) as caught:
            attempt()
        assert str(caught.value.hint).startswith("Use the unquantized model")
    with pytest.raises(TinyLoraError, match=SAID):  # of a merge in another process
        verify_seed(adapter, base=packed_weights)
    assert not any(tmp_path.iterdir())


def test_what_is_not_targeted_does_not_matter(packed_weights: Path, bases: tuple[Path, Path], tmp_path: Path) -> None:
    config = replace(CONFIG, target_modules=("down_proj",))
    for base in (packed_weights, bases[1]):
        init(base, tmp_path / "adapters" / base.name, config)
        factor(base, tmp_path / "adapters" / base.name / "f.safetensors", config)
    assert files(tmp_path / "adapters" / "gptq") == files(tmp_path / "adapters" / "plain")
    report = merge(tmp_path / "adapters" / "gptq", tmp_path / "merged", base=packed_weights)
    assert report.modules_merged == 2
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["quantization_config"]["bits"] == 4


def _bytes(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.uint8)


#: What stands for a weight of (m, n), by the method's name: the first of them tells.
FORMS: dict[str, Callable[[int, int], dict[str, torch.Tensor]]] = {
    "bitsandbytes": lambda m, n: {
        "weight": _bytes(m * n // 2, 1), "weight.absmax": _bytes(m * n // 64), "weight.quant_map": torch.ones(16),
        "weight.quant_state.bitsandbytes__nf4": _bytes(90),
    },
    "eetq": lambda m, n: {"weight": _bytes(m, n).char(), "weight_scales": torch.ones(m).half()},
    "modelopt": lambda m, n: {
        "weight": _bytes(m, n // 2), "weight_scale": torch.ones(m, n // 16).to(torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(0.1), "input_scale": torch.tensor(0.1),
    },
    "fbgemm_fp8": lambda m, n: {"weight": torch.ones(m, n).to(torch.float8_e4m3fn), "weight_scale": torch.ones(m, 1)},
    "fp8": lambda m, n: {"weight": _bytes(m, n // 2).char(), "scale": _bytes(m, n // 32).view(torch.float8_e8m0fnu)},
    "awq": lambda m, n: {"qweight": _bytes(n, m // 8).int(), "scales": torch.ones(1, m).half()},
    "compressed-tensors": lambda m, n: {"weight_packed": _bytes(m, n // 8).int(), "weight_scale": torch.ones(m, 1)},
    "quanto": lambda m, n: {"weight._data": _bytes(m, n).char(), "weight._scale": torch.ones(m, 1)},
    "hqq": lambda m, n: {"W_q": _bytes(m // 2, n), "scale": torch.ones(1), "zero": torch.ones(1)},
}  # fmt: skip


@pytest.mark.parametrize("method", FORMS)
def test_forms_that_are_not_dequantized(method: str, bases: tuple[Path, Path], tmp_path: Path) -> None:
    """Refused where they are targeted, and else copied: below a head that is merged, say."""
    base = tmp_path / "base"
    shutil.copytree(bases[1], base)
    tensors = load_file(base / "model.safetensors")
    for name in [name for name in tensors if "_proj.weight" in name]:
        parts = FORMS[method](*tensors.pop(name).shape)
        tensors |= {f"{name.removesuffix('.weight')}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    edit_json(base / "config.json", quantization_config={"quant_method": method})
    first = next(iter(FORMS[method](64, 64)))
    for targets in ("all-linear", ("v_proj",)):
        with pytest.raises(UnsupportedError, match=rf"_proj\.{first}.* the base is quantized \({method}\)"):
            count(base, replace(CONFIG, target_modules=targets))
    init(base, tmp_path / "adapter", replace(CONFIG, target_modules=("lm_head",), init_weights="uniform"))
    merge(tmp_path / "adapter", tmp_path / "merged", base=base)
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found.keys() == tensors.keys()
    same = {
        n for n, t in found.items() if t.reshape(-1).view(torch.uint8).equal(tensors[n].reshape(-1).view(torch.uint8))
    }
    assert found.keys() - same == {"lm_head.weight"}
    assert (tmp_path / "merged" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    with pytest.raises(UnsupportedError, match="is for all tensors"):
        merge(tmp_path / "adapter", tmp_path / "wide", base=base, dtype="float32")


def test_the_base_of_quantized_targets_is_not_told(packed_weights: Path, adapter: Path) -> None:
    """And what can be compared is."""
    report = verify_base(adapter, packed_weights)
    assert (report.verdict, report.ok) == ("unknown", False)
    of = {module.name.rpartition(".")[2]: module for module in report.modules}
    assert of["down_proj"].verdict == "same-weights"
    assert of["q_proj"].verdict == "unknown"
    assert of["q_proj"].note.endswith("q_proj.qweight (I32): the base is quantized (gptq)")
    first = "model.layers.0.self_attn.q_proj"
    assert [w for w in report.warnings if w.startswith(f"{first} can't be compared. Use the unquantized model")]
