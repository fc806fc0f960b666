"""A packed adapter as a complete one again: what it holds and the fingerprint of the base are compared first, the
digests of what came of them after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bases.base import Base
from ..bases.canonical import canonical_of, modules_of, weights_mark
from ..bases.held import hold
from ..bases.kept_factors import KeptFactors, KeptMark
from ..bases.modules import Module
from ..core.streams import projection
from ..core.svd.entries import Canonical
from ..core.tying import group_of
from ..errors import FormatError, MismatchError
from ..formats.memory_file import MemoryFile
from ..formats.packed import INDEX, VALUE, Packed, check_content, digest_of, long
from ..formats.peft.adapter import PeftAdapter, sort_keys
from ..formats.peft.keys import factor_key, vector_key
from ..formats.tensors import DTYPE_OF, float_dtype
from ..progress import Progress


def restore(
    packed: Packed,
    base: Base,
    *,
    device: str = "cpu",
    threads: int | None = None,
    keep_weights: bool = False,
    progress: Progress,
) -> tuple[PeftAdapter, list[str]]:
    """A packed adapter as PEFT's file and configuration would have it, from the base's weights; and what to know.

    The factors are those that were kept, if some were; only else this needs torch.

    With `keep_weights` the weights stay in memory, in `base`, for who reads them again: where they fit.

    Raises
    ------
    MismatchError
        If the base's weights aren't those that the adapter was packed with, or if what came of them has other digests.
    FormatError
        If the file was changed, or contradicts itself.
    """
    check_content(packed)
    transposed = packed.numbers("transposed") or ()
    modules = modules_of(base, packed.config, packed.names("modules"), packed.path, transposed=transposed)
    dtypes = _one_each(packed, "dtypes", len(modules))
    dtype_of = {m.name: dtype for m, dtype in zip(modules, dtypes, strict=True)}
    wanted, known = packed.text("weights"), KeptMark(base, modules)
    kept, notes = KeptFactors(wanted, modules, packed.config.r, dtype_of), list[str]()
    tensors = _rebuilt_of_kept(packed, modules, kept) if known.read() == wanted else None
    if tensors is None:
        notes = hold(base, modules) if keep_weights else []
        mark = weights_mark(base.checkpoint.read, modules)
        known.keep(mark)
        if mark != wanted:
            raise MismatchError(
                "the base's weights aren't those that the adapter was packed with",
                where=base.path,
                hint="Name the very base, in the same dtype; a copy in another dtype, or a fine-tuned one, won't do.",
            )
        tensors = _rebuilt_of_kept(packed, modules, kept)
    if tensors is None:
        canonical = _computed(packed, base, modules, dtype_of, device=device, threads=threads, progress=progress)
        tensors = rebuilt(packed, modules, canonical)
        kept.keep(canonical)
    return sort_keys(packed.path, MemoryFile(packed.path, tensors), packed.config), notes


def _rebuilt_of_kept(packed: Packed, modules: Sequence[Module], kept: KeptFactors) -> dict[str, NDArray[Any]] | None:
    """The tensors from factors that were kept; None where there are none, or others than they should be."""
    canonical = kept.read()
    if canonical is None:
        return None
    try:
        return rebuilt(packed, modules, canonical)
    except MismatchError:
        return None


def _computed(
    packed: Packed,
    base: Base,
    modules: Sequence[Module],
    dtypes: Mapping[str, str],
    *,
    device: str,
    threads: int | None,
    progress: Progress,
) -> dict[str, Canonical]:
    from ..bases.weights import torch_threads
    from ..core.torch_arrays import check_device

    with torch_threads(threads):
        return canonical_of(base, modules, packed.config.r, dtypes, device=check_device(device), progress=progress)


def rebuilt(packed: Packed, modules: Sequence[Module], canonical: Mapping[str, Canonical]) -> dict[str, NDArray[Any]]:
    """The tensors of a packed adapter, from the canonical factors of its modules; raises as `restore`."""
    dtypes = _one_each(packed, "dtypes", len(modules))
    A, B = _factors(packed, modules, canonical)
    P = _projections(packed, modules, dtypes)
    for name, arrays in (("A", A), ("B", B), ("P", P)):
        if digest_of(arrays) != packed.text(name):
            raise MismatchError(
                f"{name} came out otherwise than when the adapter was packed",
                where=packed.path,
                hint="The file was changed, or this machine computes otherwise: tell us its kind of processor.",
            )
    stored = _one_each(packed, "stored", len(modules))
    tensors: dict[str, NDArray[Any]] = {}
    for number, module in enumerate(modules):
        dtype = float_dtype(stored[number])
        tensors[factor_key(module.name, "A")] = A[number].astype(dtype)
        tensors[factor_key(module.name, "B")] = B[number].astype(dtype)
        if packed.holds_projections:
            tensors[factor_key(module.name, "P")] = P[number].astype(dtype)
    groups = packed.numbers("groups") or [
        group_of(i, len(modules), packed.config.weight_tying) for i in range(len(modules))
    ]
    vectors = packed.vectors
    if not set(groups) <= vectors.keys():
        raise FormatError("lacks the vector of a group", where=packed.path, hint="Pack the adapter again.")
    wide = float_dtype(_one_each(packed, "v", 1)[0])
    tensors |= {vector_key(g): v.astype(wide) for g, v in vectors.items()}
    return tensors | packed.others


def _one_each(packed: Packed, name: str, count: int) -> list[str]:
    text = packed.file.metadata.get(name, "float32")
    values = packed.names(name) or [] if text.startswith("[") else [text] * count
    if len(values) != count or not all(value in DTYPE_OF for value in values):
        raise FormatError(
            f"its metadata's {name!r} don't fit the {count} modules of the base",
            where=packed.path,
            hint="Is this the base that the adapter was packed with?",
        )
    return list(values)


def _factors(
    packed: Packed, modules: Sequence[Module], canonical: Mapping[str, Canonical]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Canonical factors with the packed signs and corrections."""
    ranks = [len(canonical[m.name].A) for m in modules]
    bits = np.unpackbits(np.frombuffer(long(packed.text("signs")), np.uint8))
    if len(bits) < sum(ranks):
        raise FormatError("lacks signs", where=packed.path, hint="Pack the adapter again.")
    first, flat, shapes = 0, [], []
    for module, rank in zip(modules, ranks, strict=True):
        signed = canonical[module.name].signed(bits[first : first + rank].astype(bool))
        first += rank
        flat += [signed.A.ravel(), signed.B.ravel()]
        shapes += [signed.A.shape, signed.B.shape]
    entries = np.concatenate(flat)
    if VALUE in packed.file.tensors:
        value = packed.file.read(VALUE).astype(np.float32)
        index = packed.file.read(INDEX) if INDEX in packed.file.tensors else np.arange(len(entries))
        fits = index.dtype.kind in "ui" and index.shape == value.shape
        if not fits or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(entries)):
            raise FormatError("its corrections don't fit the base", where=packed.path, hint="Pack the adapter again.")
        entries[index] = value
    ends = np.cumsum([part.size for part in flat])[:-1]
    parts = [part.reshape(shape) for part, shape in zip(np.split(entries, ends), shapes, strict=True)]
    return parts[0::2], parts[1::2]


def _projections(packed: Packed, modules: Sequence[Module], dtypes: list[str]) -> list[NDArray[Any]]:
    places = packed.numbers("P_of")
    if places is not None:
        own = packed.own_projections
        if len(places) != len(modules) or not set(places) <= own.keys():
            raise FormatError("lacks a P", where=packed.path, hint="Pack the adapter again.")
        return [own[place] for place in places]
    stream, config = packed.stream, packed.config
    seeds = range(config.projection_seed, config.projection_seed + len(modules))
    return projection.draw_rounded(seeds, config.u, [one.rank(config.r) for one in modules], dtypes, stream=stream)
