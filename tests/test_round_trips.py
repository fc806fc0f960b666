"""Round trips of adapters that hypothesis thinks up and the installed PEFT makes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foreign_projects as projects
import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tinylora_tools.adapters.source import find_source, load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.core.tying import group_of
from tinylora_tools.ops.convert.lora import to_lora
from tinylora_tools.ops.convert.packed import pack

pytestmark = pytest.mark.filterwarnings("ignore")

Updates = dict[str, "np.ndarray[Any, Any]"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Shape:
    """A model and its adapter, of any shape that fits."""

    seed: int
    hidden: int
    inner: int
    layers: int
    dtype: str
    r: int
    u: int
    weight_tying: float
    targets: tuple[str, ...]
    save_projection: bool
    bias: str


SHAPES = st.builds(
    Shape,
    seed=st.integers(0, 2**31),
    hidden=st.sampled_from([4, 16, 40]),
    inner=st.sampled_from([3, 24, 70]),
    layers=st.integers(1, 3),
    dtype=st.sampled_from(sorted(DTYPES)),
    r=st.integers(1, 6),
    u=st.integers(1, 17),
    weight_tying=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    targets=st.lists(st.sampled_from(projects.TARGETS), min_size=1, unique=True).map(tuple),
    save_projection=st.booleans(),
    bias=st.sampled_from(["none", "tinylora_only", "all"]),
)


def make(shape: Shape, directory: Path) -> tuple[Path, Path, Updates]:
    """A base, an adapter that PEFT saved, and its updates in float64 from PEFT's live modules."""
    torch.manual_seed(shape.seed)
    config = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers, vocab_size=32,
        num_attention_heads=2, num_key_value_heads=1, attention_bias=shape.bias != "none",
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(DTYPES[shape.dtype])
    model.save_pretrained(directory / "base")
    wrapped = peft.get_peft_model(
        model,
        peft.TinyLoraConfig(
            r=shape.r, u=shape.u, weight_tying=shape.weight_tying, target_modules=list(shape.targets), bias=shape.bias,
            save_projection=shape.save_projection, projection_seed=shape.seed % 1000,
        ),
    )  # fmt: skip
    for name, parameter in wrapped.named_parameters():
        if "tinylora_v" in name:
            parameter.data.normal_(std=0.1)
    wrapped.peft_config["default"].base_model_name_or_path = str(directory / "base")
    wrapped.save_pretrained(directory / "adapter")
    vectors = wrapped.base_model.tinylora_v["default"]
    updates = {}
    for name, layer in wrapped.base_model.model.named_modules():
        if "default" in getattr(layer, "tinylora_A", {}):
            A, B, P = (getattr(layer, f"tinylora_{part}")["default"].detach().double() for part in "ABP")
            v = vectors[layer._tinylora_v_key["default"]].detach().double()
            updates[name] = (B @ torch.einsum("i,ijk->jk", v, P) @ A).numpy()
    assert updates
    return directory / "base", directory / "adapter", updates


def update_of(state: dict[str, Any], name: str, v: Any) -> Any:
    A, B, P = (state[f"base_model.model.{name}.tinylora_{part}"].astype(np.float64) for part in "ABP")
    return B @ np.einsum("i,ijk->jk", v.astype(np.float64), P) @ A


def packed_and_back(shape: Shape) -> None:
    """Exactly with --exact; else each update within the error that the file tells."""
    with tempfile.TemporaryDirectory() as place:
        base, adapter, updates = make(shape, Path(place))
        before = load_file(adapter / "adapter_model.safetensors")
        for exact in (True, False):
            path = Path(place) / f"{exact}.safetensors"
            report = pack(adapter, path, base=base, exact=exact)
            header = find_source(path).open(open_base(base)).header
            tensors, config = {name: header.file.read(name) for name in header.file.tensors}, header.config.raw
            assert tensors.keys() == before.keys()
            assert config["r"] == shape.r
            for key, array in tensors.items():
                if exact or not key.endswith((".tinylora_A", ".tinylora_B")):
                    assert array.tobytes() == before[key].tobytes(), key
            if exact:
                continue
            assert report.error <= 1e-3
            for name, update in updates.items():
                A, B = (tensors[f"base_model.model.{name}.tinylora_{part}"].astype(np.float64) for part in "AB")
                old_a, old_b = (before[f"base_model.model.{name}.tinylora_{part}"].astype(np.float64) for part in "AB")
                R = np.linalg.pinv(old_b) @ update @ np.linalg.pinv(old_a)
                off = np.linalg.norm(B @ R @ A - update)
                assert off <= (1.1 * report.error + 1e-6) * np.linalg.norm(update), name


def lora_and_its_updates(shape: Shape) -> None:
    with tempfile.TemporaryDirectory() as place:
        base, adapter, updates = make(shape, Path(place))
        to_lora([adapter], Path(place) / "lora", base=base)
        state = load_file(Path(place) / "lora" / "adapter_model.safetensors")
        for name, update in updates.items():
            A, B = (state[f"base_model.model.{name}.lora_{part}.weight"].astype(np.float64) for part in "AB")
            assert np.linalg.norm(B @ A - update) <= 1e-6 * np.linalg.norm(update), name


def foreign_and_its_updates(shape: Shape, dialect: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        base, _, _ = make(shape, Path(place))
        source = Path(place) / "source"
        # the projects' own code needs r no larger than the weights
        r = min(shape.r, shape.hidden, shape.inner, shape.hidden // 2)
        maker, options = projects.PROJECTS[dialect]
        updates = maker(base, source, r=r, u=shape.u)
        pairs = [options[i + 1].replace("OUT", str(source)) for i in range(0, len(options), 2)]
        said = dict(p.split("=", 1) for p in pairs if "=" in p) | ({"rank": str(r)} if dialect == "anrgusc" else {})
        kept = next((Path(p) for p in pairs if p.endswith("kept.pt")), None)
        adapter = load_adapter(source, base, settings=said, projection=kept)
        tensors = {name: adapter.header.file.read(name) for name in adapter.header.file.tensors}
        adapted = {key.split(".", 2)[2].removesuffix(".tinylora_A") for key in tensors if key.endswith("_A")}
        assert adapted == updates.keys()
        names = list(updates)
        for i, name in enumerate(names):
            group = group_of(i, len(names), adapter.config.weight_tying)
            found = update_of(tensors, name, tensors[f"base_model.tinylora_v.{group}"])
            v = tensors[f"base_model.tinylora_v.{group}"]
            # the terms of sum v_i P_i may cancel, and each P_i is rounded to float32
            terms = update_of({key: abs(values) for key, values in tensors.items()}, name, abs(v))
            assert np.linalg.norm(found - updates[name]) <= 3e-7 * np.linalg.norm(terms), name


few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
many = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))

test_packed_and_back = few(given(SHAPES)(packed_and_back))
test_lora_and_its_updates = few(given(SHAPES)(lora_and_its_updates))
test_foreign_and_its_updates = few(given(SHAPES, st.sampled_from(sorted(projects.PROJECTS)))(foreign_and_its_updates))

test_packed_and_back_often = pytest.mark.slow(many(given(SHAPES)(packed_and_back)))
test_lora_and_its_updates_often = pytest.mark.slow(many(given(SHAPES)(lora_and_its_updates)))
test_foreign_and_its_updates_often = pytest.mark.slow(
    many(given(SHAPES, st.sampled_from(sorted(projects.PROJECTS)))(foreign_and_its_updates))
)
