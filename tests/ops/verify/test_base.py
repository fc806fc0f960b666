"""What verify-base says of PEFT's adapters on their bases, on copies and relatives of them, and on strangers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from fixture_data import FIXTURES, Fixture, fixture
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinylora_tools.errors import MismatchError
from tinylora_tools.ops.verify.base import BaseReport, by_verdict, verify_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_every_fixture_is_its_base_s(case: Fixture) -> None:
    report = verify_base(case.adapter, case.base)
    assert report.verdict == "same-weights"
    assert report.ok
    assert [m.name for m in report.modules] == sorted(m["name"] for m in case.modules)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bfloat16 base of some size, and an adapter that PEFT made of it."""
    directory = tmp_path_factory.mktemp("trained")
    torch.manual_seed(3)
    config = transformers.Qwen2Config(
        hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, W in model.named_parameters():
            if W.ndim == 2 and "layers" in name:  # a few values that stand apart, as trained weights have
                U, S, Vh = torch.linalg.svd(W, full_matrices=False)
                S[:3] = S[0] * torch.tensor([4.0, 3.0, 2.0])
                W.copy_((U * S) @ Vh)
    model = model.to(torch.bfloat16)
    model.save_pretrained(directory / "base")
    settings = peft.TinyLoraConfig(r=2, u=3, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(model, settings).save_pretrained(directory / "adapter")
    return directory / "adapter", directory / "base"


def variant(base: Path, to: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A copy of a base with every tensor changed."""
    shutil.copytree(base, to)
    state = load_file(to / "model.safetensors")
    changed = {name: change(name, W).contiguous() for name, W in state.items()}
    save_file(changed, to / "model.safetensors", metadata={"format": "pt"})
    return to


def drifted(share: float, only: str = "") -> Callable[[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)

    def change(name: str, W: Tensor) -> Tensor:
        if W.ndim != 2 or only not in name:
            return W
        noise = torch.randn(W.shape, generator=generator)
        return (W.float() + share * float(W.float().norm()) / float(noise.norm()) * noise).to(W.dtype)

    return change


def said(trained: tuple[Path, Path], tmp_path: Path, change: Callable[[str, Tensor], Tensor]) -> BaseReport:
    return verify_base(trained[0], variant(trained[1], tmp_path / "variant", change))


def test_its_own_base_agrees_bit_for_bit(trained: tuple[Path, Path]) -> None:
    report = verify_base(*trained)
    assert report.verdict == "same-weights"
    assert report.recomputed == len(report.modules) == 14
    assert all(m.agreement is not None and m.agreement > 0.98 for m in report.modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_copy_in_another_dtype_is_told_as_one(trained: tuple[Path, Path], tmp_path: Path, dtype: torch.dtype) -> None:
    report = said(trained, tmp_path, lambda _, W: W.to(dtype))
    assert report.verdict == "other-dtype"
    assert report.ok


def test_an_adapter_of_a_float32_base_on_its_bfloat16_copy(tmp_path: Path) -> None:
    case = fixture("peft021-bias-own")
    base = variant(case.base, tmp_path / "variant", lambda _, W: W.to(torch.bfloat16))
    report = verify_base(case.adapter, base)
    assert (report.verdict, report.ok) == ("other-dtype", True)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.2])
def test_a_relative_is_told_down_to_a_thousandth(trained: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    report = said(trained, tmp_path, drifted(share))
    assert report.verdict == "fine-tuned"
    assert not report.ok


def test_one_weight_that_moved_is_enough(trained: tuple[Path, Path], tmp_path: Path) -> None:
    report = said(trained, tmp_path, drifted(0.002, only="layers.1.mlp.up_proj"))
    assert [m.name for m in report.modules if m.verdict != "same-weights"] == ["model.layers.1.mlp.up_proj"]
    assert report.verdict == "fine-tuned"


def test_one_number_of_one_weight(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """The largest, times 1.5: less than the check in a merge sees."""

    def change(name: str, W: Tensor) -> Tensor:
        if name != "model.layers.0.self_attn.o_proj.weight":
            return W
        flat = W.reshape(-1).clone()
        flat[flat.abs().argmax()] *= 1.5
        return flat.reshape(W.shape)

    report = said(trained, tmp_path, change)
    moved = [m for m in report.modules if m.verdict != "same-weights"]
    assert [(m.name, m.verdict, m.tensor) for m in moved] == [
        ("model.layers.0.self_attn.o_proj", "fine-tuned", "model.layers.0.self_attn.o_proj.weight")
    ]
    assert moved[0].rho is not None
    assert moved[0].rho < 0.02


def test_a_stranger(trained: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(9)
    report = said(trained, tmp_path, lambda _, W: torch.randn(W.shape).to(W.dtype))
    assert report.verdict == "other-model"
    assert report.largest_rho is not None
    assert report.largest_rho > 0.3


def test_another_architecture_is_another_model() -> None:
    report = verify_base(fixture("peft021-13-numbers").adapter, fixture("peft021-t5").base)
    assert report.verdict == "other-model"
    assert "no tensor for" in report.modules[0].note


def test_the_adapter_s_own_base_is_found(trained: tuple[Path, Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(trained[0], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(trained[1])}))
    assert verify_base(adapter, None).ok
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/nowhere"}))
    with pytest.raises(MismatchError, match="isn't at hand"):
        verify_base(adapter, None)


def test_verdicts_are_counted_the_worst_first(trained: tuple[Path, Path], tmp_path: Path) -> None:
    moved, strange = "layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"
    drift, torch_seed = drifted(0.01, only=moved), torch.Generator().manual_seed(9)

    def change(name: str, W: Tensor) -> Tensor:
        if strange in name:
            return torch.randn(W.shape, generator=torch_seed).to(W.dtype)
        return drift(name, W)

    report = said(trained, tmp_path, change)
    assert list(by_verdict(report).items()) == [("other-model", 1), ("fine-tuned", 1), ("same-weights", 12)]
    assert report.verdict == "other-model"
