"""Bases that aren't the adapter's, or that a merge can't change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from damage import edit, edit_json
from fixture_data import ROOT, fixture
from safetensors.numpy import load_file, save_file

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_merge_finds_the_base_that_the_adapter_names(
    tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = fixture("peft020-tiny")
    monkeypatch.chdir(ROOT.parent)
    assert tinylora("merge", case.adapter, "-o", tmp_path / "a").code == 0
    monkeypatch.chdir(tmp_path)
    result = tinylora("merge", case.adapter, "-o", tmp_path / "b")
    assert result.code == 1
    assert "names 'fixtures/bases/llama-fp32' as its base, which isn't at hand" in result.err
    assert "--base DIR" in result.err


def test_module_that_the_base_lacks(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    edit(base / "model.safetensors", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    message = refused(adapter, base)
    assert "no tensor for model.layers.1.mlp.up_proj.weight" in message
    assert "Is this the base" in message


def test_wrong_base(copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    rng = np.random.default_rng(0)

    def randomise(tensors: dict[str, Any]) -> None:
        for name, values in tensors.items():
            if values.ndim == 2:
                tensors[name] = rng.standard_normal(values.shape).astype(np.float32)

    edit(base / "model.safetensors", randomise)
    message = refused(adapter, base)
    assert "don't belong to this weight" in message
    assert "--no-verify-base" in message
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", "--no-verify-base").code == 0


def test_moved_base_is_a_warning(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    rng = np.random.default_rng(0)

    def move(tensors: dict[str, Any]) -> None:
        for name, values in tensors.items():
            if values.ndim == 2:
                noise = rng.standard_normal(values.shape) * np.std(values) * 0.05
                tensors[name] = (values + noise).astype(np.float32)

    edit(base / "model.safetensors", move)
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o")
    assert result.code == 0
    assert "have changed since the adapter's factors were computed" in result.err


@pytest.mark.parametrize(
    ("settings", "method"), [({"quant_method": "gptq", "bits": 4}, "gptq"), ({"load_in_4bit": True}, "bitsandbytes")]
)
def test_quantized_targets(
    settings: dict[str, Any], method: str, copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path
) -> None:
    """A base is quantized tensor by tensor: only those that the adapter changes matter."""
    adapter, base = copied("peft020-tiny")
    edit_json(base / "config.json", quantization_config=settings)
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "plain").code == 0
    name = "model.layers.0.self_attn.q_proj.weight"
    edit(base / "model.safetensors", lambda t: t.update({name: t[name].astype(np.int8)}))
    message = refused(adapter, base)
    assert f"{name} is stored as I8: the base is quantized ({method})" in message
    assert "Use the unquantized model" in message
    assert ("model.dequantize()" in message) == (method == "bitsandbytes")
    owner = name.removesuffix(".weight")
    edit(base / "model.safetensors", lambda t: t.update({f"{owner}.qweight": t.pop(name).astype(np.int32)}))
    assert f"{owner} is stored as {owner}.qweight (I32): the base is quantized ({method})" in refused(adapter, base)


def test_fused_experts(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft019-experts")

    def fuse(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            del tensors[name]
        tensors["model.layers.0.block_sparse_moe.experts.gate_up_proj"] = np.zeros((4, 96, 32), ml_dtypes.bfloat16)

    edit(base / "model.safetensors", fuse)
    assert "experts fused in one tensor" in refused(adapter, base)


def test_overflow_of_float16(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    edit(base / "model.safetensors", lambda t: t["model.norm.weight"].fill(1e6))
    message = refused(adapter, base, "--dtype", "float16")
    assert "model.norm.weight" in message
    assert "overflows float16" in message


def test_unknown_architecture(copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path) -> None:
    """Seed-only: refused with the way out, which then gives the very same bytes, square weights included."""
    adapter, base = copied("peft021-13-numbers")
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "expected").code == 0
    edit_json(base / "config.json", model_type="nobody", architectures=["NobodyForCausalLM"])
    edit_json(adapter / "adapter_config.json", auto_mapping=None)
    assert "--module-order FILE" in refused(adapter, base)
    order = tmp_path / "order.txt"
    order.write_text("# in order\n" + "\n".join(row["name"] for row in fixture("peft021-13-numbers").modules) + "\n")
    assert "Or say --architecture plain" in refused(adapter, base, "--module-order", str(order))
    plain = ("--module-order", order, "--architecture", "plain")
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", *plain)
    assert result.code == 0, result
    name = "model.safetensors"
    assert (tmp_path / "o" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    order.write_text("model.layers.0.self_attn.q_proj\n")
    assert "--module-order doesn't name" in refused(adapter, base, "--module-order", str(order))
    order.write_text("a\na\n")
    assert "names a twice" in refused(adapter, base, "--module-order", str(order))


def test_unknown_architecture_with_stored_p(
    copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path
) -> None:
    """The seeds of the stored P tell the order."""
    for name in ("peft021-layers", "peft020-gpt2"):
        adapter, base = (path for path in copied(name))
        assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / name, "--tied", "share").code == 0
        edit_json(base / "config.json", model_type="nobody", architectures=["NobodyForCausalLM"])
        if name == "peft021-layers":
            assert "Or say --architecture plain" in refused(adapter, base)
            plain = ("--architecture", "plain")
            result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / f"{name}-2", *plain)
            assert result.code == 0, result
            first, second = (tmp_path / n / "model.safetensors" for n in (name, f"{name}-2"))
            assert first.read_bytes() == second.read_bytes()
        else:  # nothing says which tensor holds lm_head
            plain = ("--architecture", "plain")
            result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / f"{name}-2", *plain)
            assert (result.code, "no tensor for lm_head.weight" in result.err) == (1, True), result
        shutil.rmtree(tmp_path / "in")


def test_ties_that_cannot_be_undone(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft021-t5")
    config = json.loads((adapter / "adapter_config.json").read_text())
    source = load_file(adapter / "adapter_model.safetensors")
    embed = load_file(base / "model.safetensors")["shared.weight"]
    U, S, Vh = np.linalg.svd(embed, full_matrices=False)
    prefix = "base_model.model.shared.tinylora_"
    source |= {
        prefix + "A": (np.sqrt(S[:2, None]) * Vh[:2]).astype(np.float32),
        prefix + "B": np.ascontiguousarray(U[:, :2] * np.sqrt(S[:2])).astype(np.float32),
        prefix + "P": np.ones((config["u"], 2, 2), np.float32),
    }
    for key in [key for key in source if "tinylora_v" in key]:
        del source[key]
    source["base_model.tinylora_v.0"] = np.ones(config["u"], np.float32)
    save_file(source, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    edit_json(adapter / "adapter_config.json", weight_tying=1.0)
    message = refused(adapter, base)
    assert "can't hold apart" in message
    assert "--tied share" in message
