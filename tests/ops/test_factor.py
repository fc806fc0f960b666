"""`factor`'s file: what is in it, what is reused, and what survives an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixture_data import ROOT, tensors
from safetensors.torch import load_file, save_file

from tinylora_tools.errors import FormatError, MismatchError, OutputError, TinyLoraError, UnsupportedError
from tinylora_tools.formats.factors_file import read_factors
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.ops import factor as module
from tinylora_tools.ops.factor import factor

LINEAR = TinyLoraConfig(target_modules="all-linear")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "base"
    shutil.copytree(ROOT / "bases" / "llama-fp32", directory)
    return directory


def change(base: Path, name: str) -> None:
    """Add to one entry of a tensor."""
    path = base / "model.safetensors"
    state = load_file(path)
    state[name][0, 0] += 1.0
    save_file(state, path, metadata={"format": "pt"})


def test_holds_the_triplets_of_every_weight(base: Path, tmp_path: Path) -> None:
    report = factor(base, tmp_path / "f.safetensors", TinyLoraConfig(r=3, target_modules="all-linear"))
    file = read_factors(tmp_path / "f.safetensors")
    weights = tensors(base)
    assert [m.name for m in report.modules] == list(file.modules)
    for found in report.modules:
        W = torch.from_numpy(weights[f"{found.name}.weight"])
        U, S, Vh = (file.file.read(f"{found.name}.{part}") for part in ("U", "S", "Vh"))
        assert list(W.shape) == found.shape == [U.shape[0], Vh.shape[1]]
        exact = torch.linalg.svd(W.double(), full_matrices=False)
        assert np.allclose(S, exact.S[:3], rtol=0, atol=1e-6 * float(exact.S[0]))
        best = (exact.U[:, :3] * exact.S[:3]) @ exact.Vh[:3]
        assert np.allclose((U * S) @ Vh, best, atol=1e-4 * float(exact.S[0]))
        assert np.allclose(found.spectrum[:8], exact.S[:8], rtol=1e-5)
        assert found.residual < 1e-6
    assert file.file.metadata["rank"] == "3"
    assert report.bytes_written == (tmp_path / "f.safetensors").stat().st_size


def test_conv1d_is_factored_as_out_by_in(tmp_path: Path) -> None:
    options = TinyLoraConfig(target_modules=("c_attn",))
    report = factor(ROOT / "bases" / "gpt2-fp32", tmp_path / "f.safetensors", options)
    assert report.modules[0].shape == [96, 32]


def test_a_rerun_reuses_what_is_there(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.safetensors"
    factor(base, out, LINEAR)
    first = out.read_bytes()
    change(base, "model.layers.1.mlp.up_proj.weight")
    report = factor(base, out, LINEAR)
    assert [m.name for m in report.modules if not m.reused] == ["model.layers.1.mlp.up_proj"]
    assert out.read_bytes() != first

    monkeypatch.setattr(module, "top_triplets", lambda *_: pytest.fail("nothing is left to compute"))
    second = out.read_bytes()
    assert factor(base, out, LINEAR).reused == len(report.modules)
    assert out.read_bytes() == second
    assert not list(tmp_path.glob(".*"))


def test_another_rank_is_computed_anew(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    factor(base, out, LINEAR)
    with pytest.raises(OutputError, match="r=2"):
        factor(base, out, TinyLoraConfig(r=1, target_modules="all-linear"))
    forced = TinyLoraConfig(r=1, target_modules="all-linear")
    assert factor(base, out, forced, force=True).reused == 0
    assert read_factors(out).rank == 1


def test_factors_of_another_base_are_not_replaced(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.safetensors"
    factor(ROOT / "bases" / "llama-fp16", out, LINEAR)
    before = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "top_triplets", lambda *_: pytest.fail("computed before it was refused"))
        with pytest.raises(OutputError, match="other weights"):
            factor(base, out, LINEAR)
    assert out.read_bytes() == before


def interrupting(after: int, error: BaseException) -> Any:
    """top_triplets, which fails after so many calls."""
    calls = []

    def run(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise error
        return module_top_triplets(*arguments)

    return run


module_top_triplets = module.top_triplets


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl-c", "full"])
def test_an_interrupted_run_goes_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    out = tmp_path / "f.safetensors"
    whole = tmp_path / "whole.safetensors"
    factor(base, whole, LINEAR)
    torch.set_num_threads(1)
    try:
        monkeypatch.setattr(module, "top_triplets", interrupting(5, error))
        expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError
        with pytest.raises(expected, match=r"kept beside") as caught:
            factor(base, out, LINEAR)
        assert "5 of 14" in str(caught.value) or expected is OutputError
        assert not out.exists()
        monkeypatch.setattr(module, "top_triplets", interrupting(9, RuntimeError("computed what was there")))
        assert factor(base, out, LINEAR).reused == 5
    finally:
        torch.set_num_threads(2)
    one, other = (read_factors(path) for path in (whole, out))
    assert all(np.array_equal(one.file.read(name), other.file.read(name)) for name in one.file.tensors)
    assert not list(tmp_path.glob(".*"))


def test_a_part_of_another_weight_or_a_torn_one_is_not_reused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.safetensors"
    torch.set_num_threads(1)
    try:
        monkeypatch.setattr(module, "top_triplets", interrupting(5, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            factor(base, out, LINEAR)
        monkeypatch.setattr(module, "top_triplets", module_top_triplets)
        parts = sorted((tmp_path / ".f.safetensors.tinylora-partial" / "parts").glob("*.safetensors"))
        parts[0].write_bytes(parts[0].read_bytes()[:-7])
        named = next(name for path in parts[1:] for name in read_factors(path).modules)
        change(base, f"{named}.weight")
        assert factor(base, out, LINEAR).reused == 3
    finally:
        torch.set_num_threads(2)


def test_needs_no_config(base: Path, tmp_path: Path) -> None:
    (base / "config.json").unlink()
    report = factor(base, tmp_path / "f.safetensors", LINEAR)
    assert len(report.modules) == 14
    (base / "config.json").write_text('{"model_type": "llama"}')
    assert factor(base, tmp_path / "f.safetensors", LINEAR).reused == 14
    report = factor(base / "model.safetensors", tmp_path / "g.safetensors", TinyLoraConfig(target_modules=("q_proj",)))
    assert len(report.modules) == 2


def test_reports_a_rank_above_the_weight_s(base: Path, tmp_path: Path) -> None:
    report = factor(base, tmp_path / "f.safetensors", TinyLoraConfig(r=40, target_modules=("q_proj",)))
    assert {m.rank for m in report.modules} == {32}
    assert any("r=40 is more than the 32 x 32 weight has; reduced to 32" in text for text in report.warnings)


def test_warns_of_vectors_that_the_weight_does_not_determine(base: Path, tmp_path: Path) -> None:
    state = load_file(base / "model.safetensors")
    state["model.layers.0.self_attn.q_proj.weight"] = torch.eye(32)
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    report = factor(base, tmp_path / "f.safetensors", TinyLoraConfig(target_modules=("q_proj",)))
    assert any("layers.0.self_attn.q_proj" in text and "determine" in text for text in report.warnings)


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        ("q_prj", MismatchError, "no module matches"),
        ("mlp", UnsupportedError, "model.layers.0.mlp, which is no Linear"),
        (".*norm", UnsupportedError, "which is no Linear"),
    ],
)
def test_targets_that_do_not_do(
    base: Path, tmp_path: Path, targets: str, error: type[TinyLoraError], text: str
) -> None:
    wanted = targets if "*" in targets else (targets,)
    with pytest.raises(error, match=text):
        factor(base, tmp_path / "f.safetensors", TinyLoraConfig(target_modules=wanted))
    assert not list(tmp_path.glob("*f.safetensors*"))


def test_nan_in_a_weight_is_named(base: Path, tmp_path: Path) -> None:
    change(base, "model.layers.0.mlp.up_proj.weight")
    state = load_file(base / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"model.layers.0.mlp.up_proj: 1 of 1536 entries are NaN"):
        factor(base, tmp_path / "f.safetensors", LINEAR)


def test_a_quantized_target_is_refused(base: Path, tmp_path: Path) -> None:
    """What else the configuration calls quantized doesn't matter."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    assert len(factor(base, tmp_path / "plain.safetensors", LINEAR).modules) == 14
    state = load_file(base / "model.safetensors")
    state["model.layers.1.mlp.up_proj.qweight"] = state.pop("model.layers.1.mlp.up_proj.weight").int()
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedError, match=r"up_proj.qweight \(I32\): the base is quantized \(gptq\)"):
        factor(base, tmp_path / "f.safetensors", LINEAR)


def test_a_rerun_that_would_drop_modules_is_refused(base: Path, tmp_path: Path) -> None:
    out, few = tmp_path / "f.safetensors", TinyLoraConfig(target_modules=("q_proj",))
    factor(base, out, LINEAR)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="12 more modules, which this run leaves out"):
        factor(base, out, few)
    assert out.read_bytes() == before
    assert factor(base, out, few, force=True).reused == 2
    assert factor(base, out, LINEAR).reused == 2


@pytest.mark.parametrize("by", ["directory", "file", "link"])
def test_no_file_of_the_base_is_replaced(base: Path, tmp_path: Path, by: str) -> None:
    (tmp_path / "link").symlink_to(base)
    (base / "model.safetensors").rename(tmp_path / "blob")  # as the Hub's cache has it
    (base / "model.safetensors").symlink_to(tmp_path / "blob")
    (base / "notes.safetensors").write_text("mine")
    named = {"directory": base, "file": base / "model.safetensors", "link": tmp_path / "link"}[by]
    forced = TinyLoraConfig(target_modules=("q_proj",))
    for name in ("model.safetensors", "notes.safetensors"):
        before = (base / name).read_bytes()
        with pytest.raises(OutputError, match="exists already in the base's directory"):
            factor(named, base / name, forced, force=True)
        assert (base / name).read_bytes() == before
    factor(named, base / "f.safetensors", LINEAR)
    assert factor(named, base / "f.safetensors", LINEAR).reused == 14
    factor(named, base / "f.safetensors", forced, force=True)


def test_what_it_did_not_write_is_not_replaced(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    shutil.copy(base / "model.safetensors", out)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        factor(base, out, LINEAR)
    assert out.read_bytes() == before
    factor(base, out, TinyLoraConfig(target_modules="all-linear"), force=True)
    assert read_factors(out).rank == 2
