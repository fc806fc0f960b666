"""Factors, signs and P of third-party adapters: as the project itself computes them, or a message says what is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_projects as projects
import numpy as np
import pytest
import torch
from fixture_data import ROOT
from safetensors.torch import load_file, save_file
from third_party_updates import BASES, QWEN2, converted, near, options

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.core.other_forms import best_signs
from tinylora_tools.core.streams import projection
from tinylora_tools.errors import MismatchError, UnsupportedError

Run = Callable[..., Any]


@pytest.mark.parametrize("dialect", ["chi-shan0707", "cho104"])
def test_a_lost_projection_is_said_to_be_lost(dialect: str, tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    projects.PROJECTS[dialect][0](QWEN2, source)
    given = [o for o in options(dialect, source) if "kept" not in o and o != "--projection"]
    result = tinylora("convert", "peft", source, "-o", tmp_path / "o", "--base", QWEN2, *given)
    assert result.code == 1
    assert "it is lost with that run" in result.err
    assert "--projection FILE" in result.err


def test_guokakus_checkpoint_has_to_hold_the_base(tinylora: Run, tmp_path: Path) -> None:
    source, base = tmp_path / "source", tmp_path / "base"
    projects.make_guokaku(QWEN2, source)
    shutil.copytree(QWEN2, base)
    state = load_file(base / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 3] += 0.5
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    result = tinylora("convert", "peft", source, "-o", tmp_path / "o", "--base", base)
    assert result.code == 1
    assert "model.layers.1.mlp.up_proj.weight isn't the base's" in result.err


@pytest.mark.parametrize("form", ["weight", "qweight"])
def test_factors_of_quantized_weights_are_refused(form: str, tinylora: Run, tmp_path: Path) -> None:
    source, base = tmp_path / "source", tmp_path / "base"
    projects.PROJECTS["anrgusc"][0](QWEN2, source)
    shutil.copytree(QWEN2, base)
    state = load_file(base / "model.safetensors")
    for name in [name for name in state if name.endswith("_proj.weight")]:
        state[name.replace("weight", form)] = state.pop(name).to(torch.uint8)
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    result = tinylora("convert", "peft", source, "-o", tmp_path / "o", "--base", base, *options("anrgusc", source))
    assert result.code == 1
    assert "the base is quantized" in result.err
    assert form in result.err


@pytest.mark.parametrize("dialect", ["anrgusc", "spuuntries"])
def test_a_merged_checkpoint_tells_the_signs(
    dialect: str, tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained where the decomposition has other signs: only what it was merged into tells."""
    base, source, merged = BASES["llama-fp32"], tmp_path / "source", tmp_path / "merged"
    library = projects.svd

    def flipped(W: torch.Tensor, r: int) -> tuple[torch.Tensor, ...]:
        U, S, Vh = library(W, r)
        d = torch.tensor([1.0, -1.0])[:r]
        return U * d, S, Vh * d[:, None]

    monkeypatch.setattr(projects, "svd", flipped)
    updates = projects.PROJECTS[dialect][0](base, source)
    state = load_file(base / "model.safetensors")
    for name, update in updates.items():
        state[f"{name}.weight"] += torch.from_numpy(update).float()
    shutil.copytree(base, merged)
    save_file(state, merged / "model.safetensors", metadata={"format": "pt"})
    common = ["convert", "peft", source, "--base", base, *options(dialect, source)]
    assert tinylora(*common, "-o", tmp_path / "blind").code == 0
    with pytest.raises(AssertionError):
        near(converted(tmp_path / "blind"), updates, 0.1)
    told = tinylora(*common, "-o", tmp_path / "told", "--against", merged)
    assert told.code == 0, told.err
    assert "signs" not in told.err
    near(converted(tmp_path / "told"), updates, 1e-4)
    other = tinylora(*common, "-o", tmp_path / "other", "--against", base)
    assert other.code == 1
    assert "isn't the update, whatever the signs" in other.err


@pytest.mark.parametrize(("u", "r"), [(1, 1), (3, 2), (4, 2), (13, 2), (64, 3), (7, 5)])
def test_randn_over_a_root_is_torchs(u: int, r: int) -> None:
    """torch on this machine draws as one of the streams does; division included, bit for bit."""
    seeds = [0, 13, 42, 2**32 + 5, 99_999]
    wanted = np.stack([(projects.randn(seed, u, r) / r**0.5).numpy() for seed in seeds])
    assert np.array_equal(projection.draw_scaled(seeds, u, r, stream="torch"), wanted)
    default = os.environ.get("ATEN_CPU_CAPABILITY") == "default" or torch.backends.cpu.get_cpu_capability() == "DEFAULT"
    stream = "torch-cpu-scalar" if default else "torch-cpu-avx2"
    assert np.array_equal(projection.draw_scaled(seeds, u, r, stream=stream), wanted)


def test_signs_are_found_in_noise() -> None:
    rng = np.random.default_rng(0)
    R = rng.standard_normal((6, 6))
    d = np.array([1, -1, -1, 1, 1, -1.0])
    found, off, sure = best_signs(d[:, None] * R * d + 0.1 * rng.standard_normal((6, 6)), R)
    assert np.array_equal(found, d)
    assert off < 0.3
    assert sure > 10
    R[0, 1:] = R[1:, 0] = 1e-2  # the first pair's sign hardly shows
    assert best_signs(R + 0.1 * rng.standard_normal((6, 6)), R)[2] < 4
    assert best_signs(np.array([[2.0]]), np.array([[2.0]])) == (np.ones(1), 0.0, np.inf)


@pytest.mark.parametrize("key", ["{}", "{}.P", "base_model.model.{}.tinylora_P"])
def test_a_p_that_somebody_kept_is_found_by_each_of_its_names(key: str, tmp_path: Path) -> None:
    """And no other than the one that is needed is taken: its shape is checked, its module has to be there."""
    source = tmp_path / "source"
    updates = projects.make_cho104(QWEN2, source)
    settings = {"constraint": "none", "factors": str(source / "svd.pt")}
    kept, given = torch.load(source / "kept.pt"), tmp_path / "given.safetensors"
    save_file({key.format(name): P for name, P in kept.items()}, given)
    adapter = load_adapter(source, QWEN2, settings=settings, projection=given)
    near({name: adapter.delta(name) for name in adapter.modules}, updates)
    last = list(kept)[-1]
    save_file({key.format(name): P for name, P in kept.items() if name != last}, given)
    with pytest.raises(MismatchError) as caught:
        load_adapter(source, QWEN2, settings=settings, projection=given)
    assert str(caught.value) == f"{given}: has no P of {last}"
    assert caught.value.hint == (f"It is looked for as {last}, {last}.P or base_model.model.{last}.tinylora_P.")
    save_file({key.format(name): P[:2].contiguous() for name, P in kept.items()}, given)
    with pytest.raises(MismatchError, match=r"P is \(2, 2, 2\), expected \(3, 2, 2\)"):
        load_adapter(source, QWEN2, settings=settings, projection=given)


def test_a_p_is_refused_where_the_adapter_has_its_own(tmp_path: Path) -> None:
    projects.make_curiouscaliboi(QWEN2, tmp_path / "source")
    save_file({"x": torch.zeros(1)}, tmp_path / "given.safetensors")
    with pytest.raises(UnsupportedError, match="P is in the adapter's own file") as caught:
        load_adapter(tmp_path / "source", QWEN2, settings={}, projection=tmp_path / "given.safetensors")
    assert caught.value.hint == "Leave projection out."


def test_factors_of_another_shape_than_the_base_s_are_told(tmp_path: Path) -> None:
    """The projects' own names fit both bases: only the shapes differ."""
    projects.make_curiouscaliboi(ROOT / "bases" / "llama-fp16", tmp_path / "source")
    with pytest.raises(MismatchError, match=r"its factors are of a weight \(32, 32\), the base's is \(16, 16\)"):
        load_adapter(tmp_path / "source", QWEN2)
