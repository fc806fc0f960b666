"""A, B and P of a third-party adapter's modules in PEFT's form: stored factors as they are, others from the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...bases.base import Base
from ...bases.modules import Module
from ...bases.weights import as_matrix
from ...core.lowrank import projected
from ...core.other_forms import best_signs, evenly, rooted
from ...core.streams import projection
from ...core.svd.triplets import library_triplets, top_triplets
from ...core.torch_arrays import array_of
from ...errors import MismatchError, UndeterminedError, UnsupportedError
from ...formats.checkpoint import Checkpoint, read_checkpoint, read_tensor_file
from ...formats.peft.keys import factor_key
from ...formats.tensors import DTYPE_OF, FLOAT_NAMES, float_dtype
from ...formats.third_party.adapter import Frozen, ThirdPartyAdapter
from ...wording import argument

#: How far an observed update may be from the adapter's, over its norm, for its signs to be believed: a merge into
#: 16-bit weights rounds away most of a small one.
_FAR = 0.7

#: By how many standard deviations of what is left over the next best signs have to fit worse.
_SURE = 4.0

#: Pairs whose signs are tried in all combinations.
_MOST_PAIRS = 12

Converted = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in float32 after they went through another dtype."""
    return values.astype(np.float32).astype(float_dtype(dtype)).astype(np.float32)


def dtype_in_forward(adapter: ThirdPartyAdapter, module: Module | None) -> str:
    """The dtype that a module's factors, P and v have in the project's forward pass."""
    if adapter.trained_in != "weight":
        return adapter.trained_in
    name = FLOAT_NAMES[module.tensor.dtype] if module else "float32"
    return name if name in ("bfloat16", "float16") else "float32"


class Projections:
    """Each module's P (u, r, r): stored, supplied in a file, or drawn."""

    def __init__(self, adapter: ThirdPartyAdapter, names: Sequence[str], file: Path | None, stream: str) -> None:
        self._adapter, self._stream = adapter, stream
        self._place = {name: i for i, name in enumerate(names)}
        self._file = read_tensor_file(file) if file else None
        self._seeds = adapter.seeds(names)
        stored = adapter.projection(names[0]) is not None
        if stored and file is not None:
            raise UnsupportedError(
                "P is in the adapter's own file", where=adapter.path, hint=f"Leave {argument('projection')} out."
            )
        if not stored and self._file is None and self._seeds is None:
            raise UndeterminedError(
                adapter.lost_projection(),
                where=adapter.path,
                hint=f"If somebody kept P, give it with {argument('projection', ...)}: a tensor under each module's "
                "name. Else the adapter can't be had back.",
            )

    def of(self, name: str, rank: int, dtype: str) -> NDArray[Any]:
        """P in float32, as the module's forward pass has it in `dtype`."""
        adapter = self._adapter
        if self._file is not None:
            P = adapter.shape_projection(self._supplied(name))
        elif (stored := adapter.projection(name)) is not None:
            P = stored
        else:
            seed = (self._seeds or [])[self._place[name]]
            P = projection.draw_scaled([seed], adapter.proj_dim, rank, stream=self._stream)[0]
        expected = (adapter.proj_dim, rank, rank)
        if P.shape != expected:
            where = self._file.path if self._file else adapter.path
            raise MismatchError(f"{name}: P is {P.shape}, expected {expected}", where=where)
        return rounded(P, dtype)

    def _supplied(self, name: str) -> NDArray[Any]:
        keys = (name, f"{name}.P", factor_key(name, "P"))
        if self._file is None or not (found := [key for key in keys if key in self._file.tensors]):
            raise MismatchError(
                f"has no P of {name}",
                where=self._file.path if self._file else None,
                hint=f"It is looked for as {', '.join(keys[:-1])} or {keys[-1]}.",
            )
        return self._file.read(found[0])


class StoredFactors:
    """Conversion of modules whose factors are in the adapter's files."""

    def __init__(self, adapter: ThirdPartyAdapter, P: Projections, base: Base | None) -> None:
        self._adapter, self._P, self._base = adapter, P, base

    def convert(self, name: str, frozen: Frozen, module: Module | None) -> Converted:
        """A (r, in), B (out, r) and P (u, r, r) in float32."""
        scale, rank = self._adapter.scale(name), len(frozen.right)
        if module is not None and (module.out_features, module.in_features) != (
            len(frozen.left),
            frozen.right.shape[1],
        ):
            raise MismatchError(
                f"{name}: its factors are of a weight ({len(frozen.left)}, {frozen.right.shape[1]}), the base's is "
                f"({module.out_features}, {module.in_features})",
                where=self._adapter.path,
                hint="Is this the base that the adapter was trained on?",
            )
        if module is not None and self._base is not None and self._adapter.checkpoint is not None:
            _require_equal(self._adapter.checkpoint, self._base.checkpoint, module)
        P = self._P.of(name, rank, "float32")
        if frozen.rooted and frozen.S is not None:
            A, B = rooted(frozen.left, frozen.S, frozen.right)
            return A, B, (scale * P.astype(np.float64)).astype(np.float32)
        left = frozen.left.astype(np.float64)
        return evenly(left if frozen.S is None else left * frozen.S.astype(np.float64), frozen.right, P, scale)


class ComputedFactors:
    """Conversion of modules whose factors the project computes from the weights."""

    def __init__(
        self,
        adapter: ThirdPartyAdapter,
        P: Projections,
        base: Base,
        device: torch.device,
        against: Path | None,
    ) -> None:
        self._adapter, self._P, self._base, self._device = adapter, P, base, device
        self._against = read_checkpoint(against) if against else None

    def convert(self, name: str, v: NDArray[Any], module: Module) -> Converted:
        """A (r, in), B (out, r) and P (u, r, r) in float32; v (u,) is what the module's group trained."""
        adapter = self._adapter
        dtype, scale = dtype_in_forward(adapter, module), adapter.scale(name)
        P = self._P.of(name, module.rank(adapter.rank), dtype)
        stored = self._base.checkpoint.read(module.tensor.name)
        W = as_matrix(stored, module, self._device)
        if self._against is None:
            triplets = library_triplets(W, adapter.rank)
        else:
            found = top_triplets(W, adapter.rank)
            triplets = found.U, found.S, found.Vh
        U, S, Vh = (array_of(part) for part in triplets)
        if self._against is not None:
            d = _signs_of(self._against, module, stored, (U, S, Vh), projected(v, P) * scale)
            U, Vh = U * d, Vh * d[:, None]
        U, S, Vh = (rounded(part, dtype).astype(np.float64) for part in (U, S, Vh))
        return evenly(U * S, Vh, P, scale)


def _require_equal(own: Checkpoint, base: Checkpoint, module: Module) -> None:
    """Raise MismatchError where the weight that an adapter's checkpoint brings isn't the base's."""
    key = f"{module.name}.weight"
    mine, theirs = own.read(key) if key in own else None, base.read(module.tensor.name)
    known = mine is not None and mine.dtype.name in DTYPE_OF
    if mine is None or not known or not np.array_equal(mine.astype(np.float32), theirs.astype(np.float32)):
        raise MismatchError(
            f"{key} isn't the base's",
            where=own.path,
            hint=f"Name the base that the adapter was trained on, or leave {argument('base')} out.",
        )


def _signs_of(
    merged: Checkpoint, module: Module, stored: NDArray[Any], triplets: Converted, R: NDArray[Any]
) -> NDArray[Any]:
    """The signs with which U S R Vh is what a merged checkpoint adds to the weight, (r,)."""
    key = module.tensor.name
    if key not in merged or merged.info(key).shape != stored.shape:
        raise MismatchError(f"has no tensor {key} like the base's", where=merged.path, hint="Name the merged model.")
    delta = merged.read(key).astype(np.float64) - stored.astype(np.float64)
    U, S, Vh = (part.astype(np.float64) for part in triplets)
    if len(S) > _MOST_PAIRS:
        raise UnsupportedError(f"{len(S)} pairs have too many signs to try; at most {_MOST_PAIRS}", where=merged.path)
    d, off, sure = best_signs(U.T @ delta @ Vh.T, S[:, None] * R)
    if off <= _FAR and sure < _SURE:
        raise MismatchError(
            f"{module.name}: two choices of signs fit what the merged checkpoint adds about as well",
            where=merged.path,
            hint="In 16 bits small updates are rounded away: a float32 merge tells more.",
        )
    if off > _FAR:
        raise MismatchError(
            f"{module.name}: what the merged checkpoint adds to the base isn't the update, whatever the signs "
            f"(off by {off:.2g} of its norm)",
            where=merged.path,
            hint=f"Is it this adapter's merge, and are {argument('base')} and the settings right? In 16 bits small "
            "updates are rounded away: a float32 merge tells more.",
        )
    return d
