"""A packed adapter as a complete one again: what it holds and the fingerprint of the base are compared first, the
digests of what came of them after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bases.canonical import canonical_of, content_mark, digest_of, drawn_projection, long, modules_of, weights_mark
from ..bases.modules import Module
from ..core.streams import projection
from ..core.svd.canonical import Canonical
from ..core.torch_arrays import check_device
from ..core.tying import group_of
from ..errors import FormatError, MismatchError
from ..formats.checkpoint import read_checkpoint
from ..formats.packed import CONTENT, INDEX, VALUE, Array, Packed
from ..formats.peft_adapter import factor_key, vector_key
from ..formats.tensors import DTYPE_OF, float_dtype
from ..progress import NoProgress, Progress
from ..sources.locate import locate_base


def restore(
    packed: Packed, base: Path | None, *, device: str = "cpu", progress: Progress | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors and the configuration of a packed adapter, from the base's weights.

    Raises
    ------
    MismatchError
        If the base isn't at hand or its weights aren't those that the adapter was packed with, or if what came of them
        has other digests.
    FormatError
        If the file was changed, or contradicts itself.
    """
    check_content(packed)
    config = dict(packed.config)
    where = check_device(device, "Leave --device out to compute on the CPU.")
    base = base or locate_base(str(config["base_model_name_or_path"] or ""), config["revision"], packed.path.parent)
    if base is None:
        raise MismatchError(
            f"is packed, and its base {config['base_model_name_or_path']!r} isn't at hand",
            where=packed.path,
            hint="Name it with --base DIR or --base hf://owner/name.",
        )
    checkpoint = read_checkpoint(base)
    modules = modules_of(checkpoint, config, packed.names("modules"), packed.path)
    dtypes = _one_each(packed, "dtypes", len(modules))
    if weights_mark(checkpoint, modules) != packed.text("weights"):
        raise MismatchError(
            "the base's weights aren't those that the adapter was packed with",
            where=base,
            hint="Name the very base, in the same dtype; a copy in another dtype, or a fine-tuned one, won't do.",
        )
    dtype_of = {m.name: dtype for m, dtype in zip(modules, dtypes, strict=True)}
    canonical = canonical_of(checkpoint, modules, config["r"], dtype_of, where, progress or NoProgress())
    return rebuilt(packed, modules, canonical), config


def check_content(packed: Packed) -> None:
    """Raise FormatError if what a packed adapter holds isn't what was packed."""
    file = packed.file
    if content_mark(file.metadata, file.tensors, file.read) != packed.text(CONTENT):
        raise FormatError(
            "what it holds isn't what was packed: its metadata or a tensor were changed",
            where=packed.path,
            hint="Get the file again, or pack the adapter again.",
        )


def rebuilt(packed: Packed, modules: Sequence[Module], canonical: Mapping[str, Canonical]) -> dict[str, Array]:
    """The tensors of a packed adapter, from the canonical factors of its modules; raises as `restore`."""
    config = packed.config
    dtypes = _one_each(packed, "dtypes", len(modules))
    A, B = _factors(packed, modules, canonical)
    P = _projections(packed, modules, dtypes, config)
    for name, arrays in (("A", A), ("B", B), ("P", P)):
        if digest_of(arrays) != packed.text(name):
            raise MismatchError(
                f"{name} came out otherwise than when the adapter was packed",
                where=packed.path,
                hint="The file was changed, or this machine computes otherwise: tell us its kind of processor.",
            )
    stored = _one_each(packed, "stored", len(modules))
    tensors: dict[str, Array] = {}
    for number, module in enumerate(modules):
        dtype = float_dtype(stored[number])
        tensors[factor_key(module.name, "A")] = A[number].astype(dtype)
        tensors[factor_key(module.name, "B")] = B[number].astype(dtype)
        if packed.holds_projections:
            tensors[factor_key(module.name, "P")] = P[number].astype(dtype)
    groups = packed.numbers("groups") or [
        group_of(i, len(modules), config["weight_tying"]) for i in range(len(modules))
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
) -> tuple[list[Array], list[Array]]:
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


def _projections(
    packed: Packed, modules: Sequence[Module], dtypes: list[str], config: Mapping[str, Any]
) -> list[Array]:
    places = packed.numbers("P_of")
    if places is not None:
        own = packed.own_projections
        if len(places) != len(modules) or not set(places) <= own.keys():
            raise FormatError("lacks a P", where=packed.path, hint="Pack the adapter again.")
        return [own[place] for place in places]
    stream, seed = packed.file.metadata.get("stream", projection.DEFAULT_STREAM), config["projection_seed"]
    return [
        drawn_projection(seed + number, config["u"], module.rank(config["r"]), dtype, stream)
        for number, (module, dtype) in enumerate(zip(modules, dtypes, strict=True))
    ]
