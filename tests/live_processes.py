"""What runs in two processes: `python live_processes.py ddp|fsdp RANK PORT DIRECTORY`, each writing its gradients."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from live_models import DeepMLP, ours, output


def model_of() -> Any:
    torch.manual_seed(0)
    return ours(DeepMLP(), target_modules=["lin0", "lin1", "lin2", "lin3"], u=5, weight_tying=0.5)


def batch(rank: int) -> torch.Tensor:
    return torch.linspace(-1 - rank, 1, 20).reshape(2, 10)


def ddp(rank: int) -> dict[str, torch.Tensor]:
    mine = model_of()
    wrapped = torch.nn.parallel.DistributedDataParallel(mine)
    optimizer = torch.optim.SGD(mine.tinylora_v.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(batch(rank)).square().sum().backward()
        optimizer.step()
    return mine.adapter_state_dict()


def fsdp(rank: int) -> dict[str, torch.Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mine = model_of()
    mesh = init_device_mesh("cpu", (2,))
    for i in range(4):
        fully_shard(mine.model.get_submodule(f"lin{i}"), mesh=mesh)
    fully_shard(mine, mesh=mesh)
    optimizer = torch.optim.SGD([p for p in mine.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        mine(batch(rank)).square().sum().backward()
        optimizer.step()
    return mine.adapter_state_dict()


def main() -> None:
    kind, rank, port, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        found = {"ddp": ddp, "fsdp": fsdp}[kind](rank)
        torch.save({key: tensor.clone() for key, tensor in found.items()}, directory / f"{kind}-{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_one_process() -> dict[str, torch.Tensor]:
    """The same with both batches in one process: gradients are the mean over the processes."""
    mine = model_of()
    optimizer = torch.optim.SGD(mine.tinylora_v.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (sum(mine(batch(rank)).square().sum() for rank in range(2)) / 2).backward()
        optimizer.step()
    assert torch.isfinite(output(mine, {"x": batch(0)})).all()
    found: dict[str, torch.Tensor] = mine.adapter_state_dict()
    return found


if __name__ == "__main__":
    main()
