"""What six other projects save and compute, written here from their formulas.

Each `make_*` writes a small adapter as its project does, over the linear layers of a base, and returns the updates that
its forward pass adds, (out, in) in float64, from the values that the project holds (rounded buffers as they are).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Updates = dict[str, "np.ndarray[Any, Any]"]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def linear_layers(base: Path, ends: tuple[str, ...] = TARGETS) -> dict[str, Tensor]:
    """Weights of a base's linear layers in the order of named_modules(), as transformers builds it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n.rpartition(".")[2] in ends]
    state = load_file(base / "model.safetensors")
    return {name: state[f"{name}.weight"] for name in names}


def svd(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(W.float(), full_matrices=False)
    return U[:, :r], S[:r], Vh[:r]


def randn(seed: int, u: int, r: int) -> Tensor:
    return torch.randn(u, r, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def vector(u: int, number: int = 0) -> Tensor:
    return 0.1 * torch.randn(u, generator=torch.Generator().manual_seed(7000 + number))


def mixed(v: Tensor, P: Tensor) -> Tensor:
    return torch.einsum("u,urs->rs", v.double(), P.double())


def tile(names: list[str], factor: int) -> dict[str, int]:
    ordered = sorted(names, key=lambda n: (int(next(p for p in n.split(".") if p.isdigit())), n))
    return {name: i // factor for i, name in enumerate(ordered)}


def make_anrgusc(
    base: Path, out: Path, *, r: int = 2, u: int = 3, alpha: float = 2.0, seed: int = 13, mode: str = "tiled",
    factor: int = 5, manifest: bool = True,
) -> Updates:  # fmt: skip
    weights = linear_layers(base)
    names = list(weights)
    if mode == "tiled":
        groups = tile(names, factor)
    elif mode == "structured":
        groups, offset = {}, 0
        for kind in sorted({n.rpartition(".")[2] for n in names}):
            local = tile([n for n in names if n.endswith(kind)], factor)
            groups |= {n: offset + g for n, g in local.items()}
            offset += max(local.values()) + 1
    else:
        groups = {n: i if mode == "none" else 0 for i, n in enumerate(names)}
    first: dict[int, str] = {}
    for name in names:
        first.setdefault(groups[name], name)
    vectors = {g: vector(u, g) for g in sorted(first)}
    out.mkdir(parents=True)
    torch.save({f"{first[g]}.v": v for g, v in vectors.items()}, out / "adapter_state.pt")
    if manifest:
        said = {"metadata": {"seed": seed, "model_name": str(base)}}
        (out / "manifest.json").write_text(json.dumps(said))
    updates = {}
    for name, W in weights.items():
        U, S, Vh = svd(W, r)
        P = randn(seed + int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100_000, u, r) / math.sqrt(r)
        R = mixed(vectors[groups[name]], P)
        updates[name] = (alpha / u * (U.double() * S.double()) @ R @ Vh.double()).numpy()
    return updates


def make_spuuntries(base: Path, out: Path, *, r: int = 2, u: int = 4, n_tie: int = 4) -> Updates:
    weights = linear_layers(base)
    groups = max(1, len(weights) // n_tie)
    vectors = [vector(u, g) for g in range(groups)]
    out.mkdir(parents=True)
    torch.save({f"v_{i}": v for i, v in enumerate(vectors)}, out / "adapter.pt")
    said = {"rank": r, "proj_dim": u, "n_tie": n_tie, "target_modules": list(TARGETS), "num_adapted": len(weights)}
    (out / "config.json").write_text(json.dumps(said))
    updates = {}
    for i, (name, W) in enumerate(weights.items()):
        U, S, Vh = (part.to(W.dtype).double() for part in svd(W, r))
        P = (randn(42 + i, u, r) / math.sqrt(r)).to(W.dtype)
        R = mixed(vectors[min(i // n_tie, groups - 1)].to(W.dtype), P)
        updates[name] = (U @ torch.diag(S) @ R @ Vh).numpy()
    return updates


def make_curiouscaliboi(base: Path, out: Path, *, r: int = 2, u: int = 3, groups: int = 5) -> Updates:
    weights = linear_layers(base)
    bank = torch.stack([vector(u, g) for g in range(groups)])
    tensors, modules, updates = {"bank.v": bank}, [], {}
    for i, (name, W) in enumerate(weights.items()):
        torch.manual_seed(42 + i)
        U, S, V = torch.svd_lowrank(W.float(), q=r, niter=2)
        left, right = (U * S).to(W.dtype), V.T.to(W.dtype)
        P = (randn(42 + 1_000_003 * (i + 1), u, r) * (1 / math.sqrt(r))).to(W.dtype)
        group, scaling = i * groups // len(weights), 0.5 if i % 2 else 1.0
        parts = {"left": left, "right": right, "projection": P}
        tensors |= {f"layers.{i}.{part}": t.contiguous() for part, t in parts.items()}
        modules.append({"name": name, "group_id": group, "scaling": scaling})
        R = mixed(bank[group].to(P.dtype), P)
        updates[name] = (scaling * left.double() @ R @ right.double()).numpy()
    out.mkdir(parents=True)
    save_file(tensors, out / "adapter.safetensors")
    said = {"config": {"rank": r, "projection_dim": u}, "modules": modules}
    (out / "adapter_config.json").write_text(json.dumps(said))
    return updates


def make_guokaku(base: Path, out: Path, *, r: int = 2, u: int = 3, weight_tying: float = 0.3) -> Updates:
    weights = linear_layers(base)
    n = len(weights)
    size = max(1, int(weight_tying * n))
    state, updates = load_file(base / "model.safetensors"), {}
    for i, (name, W) in enumerate(weights.items()):
        U, S, Vh = svd(W, r)
        P = randn(7, u, len(S)) / math.sqrt(len(S))
        v = vector(u, i // size)
        parts = {"U": U, "S": S, "V": Vh.T, "P": P, "v": v}
        state |= {f"{name}.{part}": t.contiguous().clone() for part, t in parts.items()}
        updates[name] = ((U.double() * S.double()) @ mixed(v, P) @ Vh.double()).numpy()
    out.mkdir(parents=True)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text((base / "config.json").read_text())
    return updates


def make_chi_shan0707(base: Path, out: Path, *, r: int = 2, u: int = 4) -> Updates:
    """Its P, which the project doesn't save, is put beside as `kept.pt`."""
    weights = linear_layers(base)
    v, bfloat16 = vector(u).to(torch.bfloat16), torch.bfloat16
    generator, kept, updates = torch.Generator().manual_seed(212), {}, {}
    for name, W in weights.items():
        U, S, Vh = (part.to(bfloat16).double() for part in svd(W, r))
        P = torch.randn(u, r, generator=generator, dtype=bfloat16) / r**0.5
        kept[name] = P
        updates[name] = (U @ torch.diag(S * (v.double() @ P.double())) @ Vh).numpy()
    out.mkdir(parents=True)
    said = {"u_value": u, "rank": r, "seed": 212, "model_id": str(base), "total_replaced_layers": len(weights)}
    torch.save({"global_v": v, **said}, out / "tiny_lora_v.pt")
    torch.save(kept, out / "kept.pt")
    return updates


def make_cho104(
    base: Path, out: Path, *, r: int = 2, u: int = 3, constraint: str = "none", tied: bool = True
) -> Updates:
    """The calibration's file is `svd.pt`; its P, which the project doesn't save, is put beside as `kept.pt`."""
    weights = linear_layers(base, ("down_proj",))
    generator, kept, updates, factors = torch.Generator().manual_seed(5), {}, {}, {}
    own = {name: vector(u, 0 if tied else i) for i, name in enumerate(weights)}
    for name, W in weights.items():
        U, S, Vh = svd(W, r)
        U, S, Vh = U.to(W.dtype), torch.diag(S).to(W.dtype), Vh.to(W.dtype)
        factors[name] = {"U_r": U, "Sigma_r": S, "V_r": Vh}
        A, B = torch.sqrt(S) @ Vh, U @ torch.sqrt(S)
        kept[name] = P = torch.randn(u, r, r, generator=generator) / r**0.5
        R = mixed(own[name], P)
        if constraint == "skew_symmetric":
            R = 0.5 * (R - R.T)
        updates[name] = (B.double() @ R @ A.double()).numpy()
    out.mkdir(parents=True)
    layer = next(iter(weights)).rpartition(".mlp")[0]
    untied = {f"{name}.v": v for name, v in own.items()} | {f"{layer}.self_attn.v_proj.weight": torch.zeros(2, 2)}
    torch.save({"v": next(iter(own.values())) if tied else untied}, out / "best_model.pt")
    torch.save(factors, out / "svd.pt")
    torch.save(kept, out / "kept.pt")
    return updates


#: Dialect to what makes one, and the options of `tinylora convert` that it then needs.
PROJECTS: dict[str, tuple[Callable[..., Updates], list[str]]] = {
    "anrgusc": (
        make_anrgusc,
        ["--setting", "rank=2", "--setting", "alpha=2", "--setting", "tie_mode=tiled", "--setting", "tie_factor=5"],
    ),
    "spuuntries": (make_spuuntries, []),
    "curiouscaliboi": (make_curiouscaliboi, []),
    "guokaku": (make_guokaku, []),
    "chi-shan0707": (make_chi_shan0707, ["--projection", "OUT/kept.pt"]),
    "cho104": (
        make_cho104,
        ["--setting", "constraint=none", "--setting", "factors=OUT/svd.pt", "--projection", "OUT/kept.pt"],
    ),
}
