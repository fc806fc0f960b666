"""The updates that a third-party adapter stands for, formed with torch from what its reader says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import foreign_projects as projects
import numpy as np
import torch
from fixture_data import ROOT
from torch import Tensor

from tinylora_tools.core.torch_arrays import tensor_of
from tinylora_tools.formats.third_party import find, read
from tinylora_tools.formats.third_party.adapter import ThirdPartyAdapter

BASE = ROOT / "bases" / "qwen2-bf16"


def opened(directory: Path, **settings: str) -> ThirdPartyAdapter:
    """The adapter in a directory."""
    found = find(directory)
    assert found is not None
    return read(found, settings)


def updates_by(
    adapter: ThirdPartyAdapter, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor] | None = None
) -> projects.Updates:
    """scale U S R Vh for every weight; `kept` are the P that the project doesn't save."""
    names = list(weights)
    groups, seeds = adapter.groups(names), adapter.seeds(names)
    updates = {}
    for i, (name, W) in enumerate(weights.items()):
        dtype = W.dtype if adapter.trained_in == "weight" else getattr(torch, adapter.trained_in)
        frozen, P = adapter.frozen(name), adapter.projection(name)
        if frozen is None:
            U, S, Vh = (part.to(dtype).double() for part in projects.svd(W, adapter.rank))
            left, right = U * S, Vh
        elif frozen.S is None:
            left, right = tensor_of(frozen.left).double(), tensor_of(frozen.right).double()
        elif frozen.rooted:
            root = torch.sqrt(tensor_of(frozen.S))
            left = (tensor_of(frozen.left) * root).double()
            right = (root[:, None] * tensor_of(frozen.right)).double()
        else:
            left = tensor_of(frozen.left).double() * tensor_of(frozen.S).double()
            right = tensor_of(frozen.right).double()
        if P is not None:
            mixer = tensor_of(np.array(P))
        elif seeds is not None:
            mixer = (projects.randn(seeds[i], adapter.proj_dim, adapter.rank) / math.sqrt(adapter.rank)).to(dtype)
        else:
            assert kept is not None
            stored = kept[name]
            mixer = torch.from_numpy(adapter.shape_projection(stored.double().numpy()))
        v = tensor_of(adapter.vectors[groups[i]]).to(dtype)
        updates[name] = (adapter.scale(name) * left @ projects.mixed(v, mixer) @ right).numpy()
    return updates


def assert_near(found: projects.Updates, wanted: projects.Updates) -> None:
    assert found.keys() == wanted.keys()
    for name, update in wanted.items():
        assert np.linalg.norm(update) > 0
        assert np.linalg.norm(found[name] - update) <= 1e-6 * np.linalg.norm(update), name
