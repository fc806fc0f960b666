"""cho104/TinyLoRA-RL-SVD: `best_model.pt` with v; the factors are in a file of the calibration, P in none.

delta W = B R A with B = U sqrt(S) and A = sqrt(S) Vh, as in PEFT, formed in the dtype of the calibration's file (a
dictionary of module to U_r (out, r), Sigma_r (r, r) and V_r, which is Vh). P = randn / sqrt(r) was never seeded. With
the skew-symmetric constraint R is (R - R^T) / 2; with the one called mhc it isn't linear in v.

Source: core/tinylora.py, scripts/train.py and scripts/calibrate_svd.py of github.com/cho104/TinyLoRA-RL-SVD, 2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, MismatchError, UnsupportedError
from ...wording import argument
from ..pickled.stored import load_pickle
from .adapter import Frozen, Settings, ThirdPartyAdapter, is_tensor, same_size, vector_of

FILES = ("best_model.pt",)

_CONSTRAINTS = ("none", "skew_symmetric", "mhc")


def recognises(content: Any) -> bool:
    """Whether a pickle's content is this project's."""
    return isinstance(content, dict) and content.keys() == {"v"} and (is_tensor(content["v"]) or _is_map(content["v"]))


def _is_map(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(name, str) and name.endswith(".v") for name in value)


class Cho104(ThirdPartyAdapter):
    """An adapter of cho104/TinyLoRA-RL-SVD."""

    dialect = "cho104"

    def __init__(self, path: Path, content: Mapping[str, Any], settings: Settings) -> None:
        v = content["v"]
        # the project saves every parameter with a v in its name, v_proj's weights among them
        own = {"": v} if is_tensor(v) else {n[:-2]: t for n, t in v.items() if str(n).endswith(".v")}
        vectors = [vector_of(tensor, name or "v", path) for name, tensor in own.items()]
        self._own = {name: i for i, name in enumerate(own)}
        self._constraint = settings.text(
            "constraint", "topological_constraint, none by the project's default", among=_CONSTRAINTS
        )
        if self._constraint == "mhc":
            raise UnsupportedError(
                "trained with the constraint mhc, which makes R no linear map of v: that isn't TinyLoRA's form",
                where=path,
                hint="Merge it with the project's own code.",
            )
        svd = settings.path("factors", "the file that the calibration wrote (svd_init_path), with U_r, Sigma_r and V_r")
        self._factors = _read_factors(svd)
        self.names = tuple(self._factors)
        rank = len(next(iter(self._factors.values())).right)
        super().__init__(path, rank, same_size(vectors, path), vectors)
        self.notes.append(
            "where the calibration weighted its decomposition, merging warns of factors that aren't the base's"
        )

    def groups(self, names: Sequence[str]) -> list[int]:
        """One group, or each module's own.

        Raises
        ------
        MismatchError
            If a module has no v.
        """
        if "" in self._own:
            return [0] * len(names)
        absent = [name for name in names if name not in self._own]
        if absent:
            raise MismatchError(f"has no v of {absent[0]}", where=self.path, hint="Is this its calibration's file?")
        return [self._own[name] for name in names]

    def frozen(self, name: str) -> Frozen:
        return self._factors[name]

    def lost_projection(self) -> str:
        return "P was drawn without a seed and isn't in the file: it is lost with that run"

    def shape_projection(self, P: NDArray[Any]) -> NDArray[Any]:
        """P; with the skew-symmetric constraint, its skew part."""
        if self._constraint == "none" or P.ndim != 3:
            return P
        wide = P.astype(np.float64)
        skew: NDArray[Any] = (wide - wide.transpose(0, 2, 1)) / 2
        return skew


def _read_factors(path: Path) -> dict[str, Frozen]:
    if not path.is_file():
        raise FormatError("no such file", where=path, hint=f"Check {argument('settings', {'factors': ...})}.")
    content = load_pickle(path)
    if not isinstance(content, dict) or not content:
        raise FormatError("holds no factors", where=path, hint="Name the file that calibrate_svd.py wrote.")
    found = {}
    for name, parts in content.items():
        if not isinstance(parts, dict) or not {"U_r", "Sigma_r", "V_r"} <= parts.keys():
            raise FormatError(f"{name}: no U_r, Sigma_r and V_r", where=path, hint="Name calibrate_svd.py's file.")
        U, S, Vh = (vector_of(parts[key], f"{name}.{key}", path) for key in ("U_r", "Sigma_r", "V_r"))
        if U.ndim != 2 or Vh.ndim != 2 or S.shape != (U.shape[1], len(Vh)) or np.any(np.diag(np.diag(S)) != S):
            raise FormatError(f"{name}: U_r is {U.shape}, Sigma_r {S.shape}, V_r {Vh.shape}", where=path)
        found[str(name)] = Frozen(U, Vh, np.diag(S), rooted=True)
    return found
