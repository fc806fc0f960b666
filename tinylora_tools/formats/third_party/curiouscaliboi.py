"""CuriousCaliBoi/nemotron-lightning-tinylora: `adapter.safetensors` and an `adapter_config.json` of its own.

delta W = scaling L R V, all stored: `bank.v` (groups, u) and, for each module in the order of named_modules(),
`layers.<i>.left` (out, r), which is U S, `layers.<i>.right` (r, in), which is Vh, and `layers.<i>.projection`
(u, r, r), in the weight's dtype, to which v is rounded too. U, S and Vh are those of torch.svd_lowrank with two
iterations: approximately the weight's.

Source: tinylora_rl/adapters.py of github.com/CuriousCaliBoi/nemotron-lightning-tinylora, 2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ..json_file import read_object
from ..safetensors_file import SafetensorsFile
from .adapter import Frozen, ThirdPartyAdapter, floating

WEIGHTS_NAME = "adapter.safetensors"
CONFIG_NAME = "adapter_config.json"

#: Beyond this no scale is a number that float32 holds.
_MOST = 1e38


def recognises(file: SafetensorsFile) -> bool:
    """Whether a file's names are this project's."""
    return "bank.v" in file.tensors


class CuriousCaliBoi(ThirdPartyAdapter):
    """An adapter of CuriousCaliBoi/nemotron-lightning-tinylora."""

    dialect = "curiouscaliboi"
    ordered = True

    def __init__(self, file: SafetensorsFile) -> None:
        self._file, path = file, file.path
        self._modules = _modules(path)
        bank = floating(self._file.read("bank.v"), "bank.v", path)
        if bank.ndim != 2 or not len(bank):
            raise FormatError(f"bank.v is {bank.shape}, expected (groups, u)", where=path)
        self._place = {str(m["name"]): i for i, m in enumerate(self._modules)}
        self.names = tuple(self._place)
        if len(self._place) != len(self._modules):
            raise FormatError("names a module twice", where=path.parent / CONFIG_NAME)
        P = self._tensor("projection", self.names[0])
        if any(self._tensor("projection", name).dtype != P.dtype for name in self.names):
            raise FormatError("its projections are of several dtypes", where=path)
        super().__init__(path, P.shape[-1], bank.shape[1], [v.astype(P.dtype).astype(np.float32) for v in bank])
        self.notes.append("its factors are of a randomised decomposition: near the weight's, so merging may warn of it")

    def groups(self, names: Sequence[str]) -> list[int]:
        return [int(self._modules[self._place[name]]["group_id"]) for name in names]

    def scale(self, name: str) -> float:
        return float(self._modules[self._place[name]]["scaling"])

    def projection(self, name: str) -> NDArray[Any]:
        P = self._tensor("projection", name)
        if P.shape != (self.proj_dim, self.rank, self.rank):
            raise FormatError(
                f"{name}: its projection is {P.shape}, expected {(self.proj_dim, self.rank, self.rank)}",
                where=self.path,
            )
        return P

    def frozen(self, name: str) -> Frozen:
        left, right = self._tensor("left", name), self._tensor("right", name)
        if left.shape[1:] != (self.rank,) or right.shape[:1] != (self.rank,) or right.ndim != 2:
            raise FormatError(f"{name}: left is {left.shape}, right is {right.shape}, r={self.rank}", where=self.path)
        return Frozen(left, right)

    def _tensor(self, part: str, name: str) -> NDArray[Any]:
        key = f"layers.{self._place[name]}.{part}"
        if key not in self._file.tensors:
            raise FormatError(f"lacks {key}, of {name}", where=self._file.path, hint="Save the adapter again.")
        return floating(self._file.read(key), key, self._file.path)


def _modules(path: Path) -> list[Mapping[str, Any]]:
    file = path.parent / CONFIG_NAME
    if not file.is_file():
        raise FormatError(
            f"no {CONFIG_NAME} beside it, which names the modules", where=path, hint="Put it beside the file."
        )
    modules = read_object(file).get("modules")
    fields = {"name": (str,), "group_id": (int,), "scaling": (int, float)}
    if (
        not isinstance(modules, list)
        or not modules
        or not all(isinstance(m, dict) and all(type(m.get(k)) in t for k, t in fields.items()) for m in modules)
        or not all(abs(m["scaling"]) < _MOST for m in modules)
    ):
        raise FormatError("its modules aren't a list of objects with name, group_id and scaling", where=file)
    return modules
