"""What packing and unpacking take from a base: modules in PEFT's order, a fingerprint, and factors."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import edit
from fixture_data import FIXTURES, Fixture, fixture
from numpy.typing import NDArray
from safetensors.torch import load_file

from tinylora_tools.bases.base import Base
from tinylora_tools.bases.canonical import canonical_of, modules_of, weights_mark
from tinylora_tools.bases.modules import Module
from tinylora_tools.errors import FormatError, MismatchError
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.progress import NoProgress

LAYERS = fixture("peft021-layers")
NAMES = [row["name"] for row in LAYERS.modules]


def targeted(case: Fixture, base: Base, names: list[str] | None = None) -> list[Module]:
    return modules_of(base, read_adapter(case.adapter).config, names, case.adapter)


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_modules_are_those_that_peft_adapted(case: Fixture) -> None:
    """By the configuration, but for experts, which only transformers 4 knows singly: those have to be named."""
    names = [row["name"] for row in case.modules]
    assert [module.name for module in targeted(case, Base(case.base), names)] == names
    if case.name != "peft019-experts":
        assert [module.name for module in targeted(case, Base(case.base))] == names


def test_names_that_the_base_lacks_and_targets_that_are_none() -> None:
    base = Base(LAYERS.base)
    with pytest.raises(MismatchError, match=r"the base has no module model\.layers\.99\.mlp\.up_proj") as caught:
        targeted(LAYERS, base, [*NAMES, "model.layers.99.mlp.up_proj"])
    assert caught.value.hint == "Is this the base that the adapter was packed with?"
    with pytest.raises(FormatError) as told:
        modules_of(base, TinyLoraConfig(target_modules="*_proj"), None, Path("adapter_config.json"))
    assert str(told.value).startswith("adapter_config.json: ")


def test_the_fingerprint_is_a_digest_of_digests(tmp_path: Path) -> None:
    """Of each weight's dtype, shape and bytes, in the modules' order: written out here once more."""
    base = Base(LAYERS.base)
    modules = targeted(LAYERS, base)
    state = load_file(LAYERS.base / "model.safetensors")
    each = ""
    for name in NAMES:
        W = state[f"{name}.weight"]
        data = W.view(torch.uint8).numpy().tobytes()
        each += hashlib.sha256(f"bfloat16 {list(W.shape)} ".encode() + data).hexdigest()
    wanted = base64.b64encode(hashlib.sha256(each.encode()).digest()).decode().rstrip("=")
    assert weights_mark(base.checkpoint.read, modules) == wanted
    assert weights_mark(base.checkpoint.read, modules[::-1]) != wanted
    shutil.copytree(LAYERS.base, tmp_path / "base")
    edit(tmp_path / "base" / "model.safetensors", lambda t: t[f"{NAMES[3]}.weight"].view(np.uint16).__ixor__(1))
    assert weights_mark(Base(tmp_path / "base").checkpoint.read, modules) != wanted


def test_factors_are_the_singular_triplets_of_the_rounded_weight() -> None:
    """As NumPy finds them in float64, of weights in another dtype; those of Conv1D are stored the other way round."""
    case = fixture("peft020-gpt2")
    base = Base(case.base)
    modules = targeted(case, base)
    seen: dict[str, NDArray[Any]] = {}
    found = canonical_of(
        base,
        modules,
        2,
        {module.name: "bfloat16" for module in modules},
        device=torch.device("cpu"),
        progress=NoProgress(),
        check=lambda module, stored: seen.update({module.name: stored}),
    )
    state = load_file(case.base / "model.safetensors")
    assert found.keys() == seen.keys() == case.modules_by_name.keys()
    for module in modules:
        stored = state[module.tensor.name]
        assert seen[module.name].tobytes() == stored.numpy().tobytes()
        W = stored.bfloat16().double().numpy()
        W = W.T if case.modules_by_name[module.name]["kind"] == "Conv1D" else W
        U, S, Vh = np.linalg.svd(W, full_matrices=False)
        best = (U[:, :2] * S[:2]) @ Vh[:2]
        A, B = found[module.name].A, found[module.name].B
        assert np.linalg.norm(B.astype(np.float64) @ A - best) <= 2**-6 * np.linalg.norm(
            best
        )  # each part is rounded to 8 bits
        assert torch.from_numpy(A).bfloat16().float().numpy().tobytes() == A.tobytes()
        assert torch.from_numpy(B).bfloat16().float().numpy().tobytes() == B.tobytes()


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    shutil.copytree(LAYERS.base, tmp_path / "base")
    edit(tmp_path / "base" / "model.safetensors", lambda t: t[f"{NAMES[3]}.weight"].fill(np.nan))
    base = Base(tmp_path / "base")
    with pytest.raises(FormatError) as caught:
        canonical_of(
            base,
            targeted(LAYERS, base),
            2,
            dict.fromkeys(NAMES, "bfloat16"),
            device=torch.device("cpu"),
            progress=NoProgress(),
        )
    assert str(caught.value).startswith(f"{tmp_path / 'base'}: {NAMES[3]}: ")
