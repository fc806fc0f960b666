"""GuoKaku/TinyLora_Reproduce: a whole checkpoint, with `<module>.{weight,U,S,V,P,v}` for each module.

delta W = U S R V^T in float32, all stored; V is (in, r). `<module>.weight` is the base's, without the update. Each
module has a v of its own in the file: training shares them, and saving copies them.

Source: src/tinylora_gsm8k/tinylora.py of github.com/GuoKaku/TinyLora_Reproduce, 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ..checkpoint import Checkpoint
from .adapter import Frozen, ThirdPartyAdapter, floating, same_size

_PARTS = ("U", "S", "V", "P", "v")


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds this project's tensors."""
    return bool(_names(checkpoint))


def _names(checkpoint: Checkpoint) -> list[str]:
    found = [key.removesuffix(".P") for key in checkpoint.shard_of if key.endswith(".P")]
    return [name for name in found if all(f"{name}.{part}" in checkpoint for part in _PARTS)]


class GuoKaku(ThirdPartyAdapter):
    """An adapter inside a checkpoint of GuoKaku/TinyLora_Reproduce."""

    dialect = "guokaku"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = self._checkpoint = checkpoint
        self.names = tuple(_names(checkpoint))
        of_module = {name: self._read(name, "v") for name in self.names}
        different: dict[bytes, int] = {}
        for v in of_module.values():
            different.setdefault(v.tobytes(), len(different))
        self._group = {name: different[v.tobytes()] for name, v in of_module.items()}
        vectors = [v.astype(np.float32) for v in {v.tobytes(): v for v in of_module.values()}.values()]
        shapes = {self._read(name, "P").shape for name in self.names}
        rank = max((shape[-1] for shape in shapes if len(shape) == 3), default=0)
        if not rank:
            raise FormatError("no P is (u, r, r)", where=checkpoint.path)
        super().__init__(checkpoint.path, rank, same_size(vectors, checkpoint.path), vectors)

    def groups(self, names: Sequence[str]) -> list[int]:
        """Modules with the same v form a group."""
        return [self._group[name] for name in names]

    def frozen(self, name: str) -> Frozen:
        U, S, V = (self._read(name, part) for part in "USV")
        if S.ndim != 1 or not U.shape[1:] == V.shape[1:] == S.shape:
            raise FormatError(f"{name}: U is {U.shape}, S {S.shape}, V {V.shape}", where=self._checkpoint.path)
        return Frozen(U, V.T, S)

    def projection(self, name: str) -> NDArray[Any]:
        return self._read(name, "P")

    def _read(self, name: str, part: str) -> NDArray[Any]:
        key = f"{name}.{part}"
        return floating(self._checkpoint.shards[self._checkpoint.shard_of[key]].read(key), key, self._checkpoint.path)
