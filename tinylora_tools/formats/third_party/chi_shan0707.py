"""Chi-Shan0707/TinyLoRA-Qwen-Coder: `tiny_lora_v.pt` with one v for the whole model; P isn't in it.

delta W = U diag(S * (v P)) Vh with P (u, r): R is diagonal. All in bfloat16. P was drawn on a GPU from its global
generator, layer by layer, so it is lost unless somebody kept it. By the project's default the weights were 4-bit ones,
and U, S and Vh are of what they dequantize to.

Source: utils.py and train_rl.py of github.com/Chi-Shan0707/TinyLoRA-Qwen-Coder, 2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, MismatchError
from .adapter import LINEAR_LAYERS, ThirdPartyAdapter, same_size, vector_of

FILES = ("tiny_lora_v.pt", "best_tiny_lora_v.pt")


def recognises(content: Any) -> bool:
    """Whether a pickle's content is this project's."""
    return isinstance(content, dict) and {"global_v", "u_value", "rank", "seed"} <= content.keys()


class ChiShan0707(ThirdPartyAdapter):
    """An adapter of Chi-Shan0707/TinyLoRA-Qwen-Coder."""

    dialect = "chi-shan0707"
    trained_in = "bfloat16"

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        v, rank = vector_of(content["global_v"], "global_v", path), content["rank"]
        if type(rank) is not int or rank < 1:
            raise FormatError(f"rank is {rank!r}, expected a positive integer", where=path)
        super().__init__(path, rank, same_size([v], path), [v])
        said, layers = content["u_value"], content.get("total_replaced_layers")
        if type(said) is not int or said != self.proj_dim:
            raise MismatchError(f"global_v has {self.proj_dim} numbers, and u_value is {said!r}", where=path)
        self._layers = layers if type(layers) is int else None
        name = content.get("model_id")
        self.base_model = name if isinstance(name, str) else None
        self.notes.append(
            "the project trains on 4-bit weights by default: then its factors are of the dequantized weights, and the "
            "base has to hold those"
        )

    def adapts(self, name: str) -> bool:
        return name.rpartition(".")[2].endswith(LINEAR_LAYERS)

    def groups(self, names: Sequence[str]) -> list[int]:
        """One group.

        Raises
        ------
        MismatchError
            If the base has another number of modules than the adapter says.
        """
        if self._layers not in (None, len(names)):
            raise MismatchError(
                f"the base has {len(names)} modules to adapt, and the adapter had {self._layers}",
                where=self.path,
                hint="Is this the base that the adapter was trained on?",
            )
        return [0] * len(names)

    def lost_projection(self) -> str:
        return "P was drawn from the global generator of a GPU and isn't in the file: it is lost with that run"

    def shape_projection(self, P: NDArray[Any]) -> NDArray[Any]:
        """P (u, r), the diagonals, or (u, r, r)."""
        if P.ndim != 2:
            return P
        full = np.zeros((*P.shape, P.shape[1]), P.dtype)
        full[:, np.arange(P.shape[1]), np.arange(P.shape[1])] = P
        return full
