"""R of every module, and what an embedding multiplies its update by, against PEFT's and transformers' own modules."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from fixture_data import MERGEABLE, Fixture, fixture

from tinylora_tools.adapters.load import Adapter
from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.adapters.updates import embedding_scale, projected_vectors
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import UndeterminedError

EMBEDDING = "model.embed_tokens"


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
def test_r_is_the_live_modules_(case: Fixture) -> None:
    found = projected_vectors(load_adapter(case.adapter, case.base), -2.5)
    assert found.keys() == case.modules_by_name.keys()
    for name, R in found.items():
        P, v = (case.live[f"{name}.{part}"].astype(np.float64) for part in "Pv")
        wanted = -2.5 * np.tensordot(v, P, 1)
        np.testing.assert_allclose(R, wanted, rtol=1e-12, atol=1e-14 * np.abs(wanted).max())


def test_other_vectors_may_take_the_adapter_s_place() -> None:
    case = fixture("peft021-named")  # several groups
    adapter = load_adapter(case.adapter, case.base)
    rng = np.random.default_rng(0)
    vectors = {group: rng.standard_normal(13) for group in adapter.header.vectors}
    for name, R in projected_vectors(adapter, vectors=vectors).items():
        P = case.live[f"{name}.P"].astype(np.float64)
        np.testing.assert_allclose(R, np.tensordot(vectors[case.modules_by_name[name]["group"]], P, 1), rtol=1e-12)


def of_family(directory: Path, **config: object) -> Adapter:
    """The adapter of an embedding of 32 numbers, on a base of another family."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return load_adapter(fixture("peft021-embedding").adapter, Base(directory))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_scaled_embedding_s_factor_is_transformers_(dtype: torch.dtype, tmp_path: Path) -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    layer = Gemma3TextScaledWordEmbedding(4, 32, 0, embed_scale=32**0.5).to(dtype)
    factor = (layer(torch.tensor([1])) / layer.weight[1]).median().item()
    names = {torch.float32: np.float32, torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}
    gemma = of_family(tmp_path / "gemma", model_type="gemma3_text")
    found = embedding_scale(gemma, EMBEDDING, np.dtype(names[dtype]), None)
    assert found == layer.embed_scale.to(dtype).item()
    assert found == pytest.approx(factor, rel=1e-2)
    assert embedding_scale(gemma, "model.layers.0.self_attn.q_proj", np.dtype(np.float32), None) == 1.0


def test_a_number_is_not_rounded_but_for_lora(tmp_path: Path) -> None:
    bart = of_family(tmp_path / "bart", model_type="bart", scale_embedding=True)
    bart_module = "model.encoder.embed_tokens"
    modules = {bart_module: bart.modules[EMBEDDING]}
    object.__setattr__(bart.header, "modules", modules)
    narrow = np.dtype(ml_dtypes.bfloat16)
    assert embedding_scale(bart, bart_module, narrow, None) == 32**0.5
    assert embedding_scale(bart, bart_module, narrow, None, as_buffer=True) == float(torch.tensor(32**0.5).bfloat16())


def test_a_factor_that_depends_on_the_release_has_to_be_said(tmp_path: Path) -> None:
    gemma = of_family(tmp_path / "gemma", model_type="gemma")
    with pytest.raises(UndeterminedError, match="is scaled by itself under one release of transformers"):
        embedding_scale(gemma, EMBEDDING, np.dtype(np.float32), None)
    assert embedding_scale(gemma, EMBEDDING, np.dtype(np.float32), "4") == 1.0
    assert embedding_scale(gemma, EMBEDDING, np.dtype(np.float32), "5") == float(np.float32(32**0.5))


def test_families_that_do_not_scale(tmp_path: Path) -> None:
    qwen2 = load_adapter(fixture("peft021-embedding").adapter, fixture("peft021-embedding").base)
    assert embedding_scale(qwen2, EMBEDDING, np.dtype(np.float32), None) == 1.0
    nobody = of_family(tmp_path / "nobody", model_type="nobody")
    assert embedding_scale(nobody, EMBEDDING, np.dtype(np.float32), None) == 1.0
