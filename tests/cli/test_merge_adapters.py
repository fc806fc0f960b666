"""Adapters that contradict themselves or their base, or can't be reproduced, aren't merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from damage import edit, edit_json
from fixture_data import FIXTURES

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_unmatched_key(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    edit(adapter / "adapter_model.safetensors", lambda t: t.update({"surprise": np.zeros(3, np.float32)}))
    assert "surprise: no PEFT release writes this key" in refused(adapter, base)
    adapter_two = adapter / "adapter_model.safetensors"
    edit(
        adapter_two, lambda t: (t.pop("surprise"), t.update({"base_model.model.lost.weight": np.zeros(3, np.float32)}))
    )
    assert "no tensor for lost.weight" in refused(adapter, base)


def test_shapes_and_ranks_that_disagree(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft021-bias-all")
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    key = "base_model.model.model.layers.0.self_attn.q_proj.tinylora_"
    edit(
        base / "model.safetensors",
        lambda t: t.update({"model.layers.0.mlp.up_proj.weight": np.zeros((47, 32), np.float32)}),
    )
    assert "factors are for a weight of shape (48, 32), model.layers.0.mlp.up_proj.weight is (47, 32)" in refused(
        adapter, base
    )
    for part, shape, message in (
        ("A", (3, 32), "A is (3, 32) and B is (32, 2)"),
        ("B", (32,), "B is (32,)"),
        ("P", (3, 2, 3), "P is (3, 2, 3) but A says r=2"),
        ("P", (4, 2, 2), "P is (4, 2, 2), but adapter_config.json says u=3"),
    ):
        weights.write_bytes(whole)
        edit(weights, lambda t, part=part, shape=shape: t.update({key + part: np.ones(shape, np.float32)}))
        assert message in refused(adapter, base)
    weights.write_bytes(whole)
    edit(weights, lambda t: t.pop(key + "B"))
    assert "tinylora_B missing" in refused(adapter, base)
    weights.write_bytes(whole)
    edit_json(adapter / "adapter_config.json", r=4)
    assert "A has rank 2, but adapter_config.json says r=4" in refused(adapter, base)
    edit_json(adapter / "adapter_config.json", r=2, u="3")
    assert "u is '3', expected an integer" in refused(adapter, base)
    edit_json(adapter / "adapter_config.json", u=3, peft_type="LORA")
    assert "peft_type is 'LORA'" in refused(adapter, base)


def test_groups_that_do_not_fit(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft019-shared")
    edit_json(adapter / "adapter_config.json", weight_tying=0.25)
    message = refused(adapter, base)
    assert "weight_tying 0.25" in message
    assert "--first-adapter ADAPTER" in message


def test_the_lost_seed_is_named(tinylora: Run, tmp_path: Path) -> None:
    case = next(case for case in FIXTURES if case.name == "peft019-seed-only")
    result = tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o")
    assert (result.code, "PEFT 0.19.1 drew P from a seed" in result.err) == (1, True)
    assert "save_projection=True" in result.err


def test_scales_beyond_every_number(copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    edit(adapter / "adapter_model.safetensors", lambda t: [t[k].fill(9.0) for k in t if "tinylora_v" in k])
    for scale in ("1e300", "1.7e308"):  # NumPy's warnings would be errors here
        assert "the result holds NaN or Inf" in refused(adapter, base, f"--scale={scale}")
        result = tinylora("convert", "lora", adapter, "-o", tmp_path / "o", f"--scale={scale}")
        assert (result.code, "its factors " in result.err) == (1, True), result
