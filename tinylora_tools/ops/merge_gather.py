"""What an adapter asks of its base: each update and each replaced parameter, checked and given its place."""

from __future__ import annotations

import numpy as np

from ..core.lowrank import projected
from ..errors import MismatchError, UnsupportedError
from ..formats.peft_adapter import PeftAdapter
from ..formats.tensors import FLOAT_NAMES, numpy_dtype
from .load import LoadedAdapter, problems
from .merge_model import Change, Source, Update
from .orientation import is_transposed
from .projections import projections, require_seed
from .targets import BaseNames, refuse_packed


def check_adapter(loaded: LoadedAdapter) -> None:
    """Raise MismatchError where an adapter contradicts itself or its vectors aren't finite."""
    adapter = loaded.adapter
    found = problems(adapter)
    if found:
        more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
        raise MismatchError(
            found[0] + more,
            where=adapter.file.path,
            hint="Was the file or its adapter_config.json edited? Save the adapter again.",
        )
    for group, info in adapter.vectors.items():
        if not np.all(np.isfinite(adapter.file.read(info.name).astype(np.float64))):
            raise MismatchError(
                f"the trained vector of group {group} holds NaN or Inf",
                where=adapter.file.path,
                hint="The training diverged: use an earlier checkpoint of the adapter.",
            )


def gather_updates(
    loaded: LoadedAdapter, scale: float, names: BaseNames, changes: dict[str, Change], warnings: list[str]
) -> None:
    """Add each module's update to `changes`, by the parameter's name in the model.

    Raises
    ------
    UndeterminedError
        If a P or a group can't be known.
    MismatchError, UnsupportedError
        If a weight isn't in the base, has another shape, or can't be changed.
    """
    adapter, numbering = loaded.adapter, loaded.numbering
    if not adapter.has_projections:
        require_seed(adapter)  # where the seed is lost, knowing the order wouldn't help
    if numbering.group is None or (numbering.index is None and not adapter.has_projections):
        raise numbering.doubts[0]
    drawn = projections(adapter, numbering.index)
    vectors = {group: adapter.file.read(info.name) for group, info in adapter.vectors.items()}
    for module, parts in adapter.modules.items():
        parameter = f"{module}.weight"
        change = changes.setdefault(parameter, Change(names.group(parameter)))
        refuse_packed(names.base, change.group.stored)
        R = projected(vectors[numbering.group[module]], drawn[module]) * scale  # (r, r)
        R = R / _embedding_scale(names, module, change.group.stored, warnings)
        expected = (parts.out_features, parts.in_features)
        transposed = is_transposed(names, adapter, module, expected, change.group.stored)
        change.updates.append(Update(adapter, module, R, transposed))


def _embedding_scale(names: BaseNames, module: str, key: str, warnings: list[str]) -> float:
    """What an embedding multiplies its weight by when it looks it up: PEFT adds the update behind that."""
    scaled = names.architecture.scaled(module) if names.architecture else False
    size = (names.base.config or {}).get("hidden_size")
    if scaled is None:
        warnings.append(
            f"{module} is scaled by sqrt(hidden_size): by itself under transformers 5, where PEFT adds the update "
            "behind that, and by the model under 4. The merge is that of an adapter trained under 4"
        )
    if not scaled or not isinstance(size, int):
        return 1.0
    dtype = numpy_dtype(names.base.info(key).dtype)  # the scale is rounded to the weight's
    return float(np.sqrt(float(size)).astype(np.float32).astype(dtype))


def gather_replacements(
    adapter: PeftAdapter, scale: float, names: BaseNames, changes: dict[str, Change], warnings: list[str]
) -> None:
    """Add the parameters that an adapter brings whole to `changes`.

    Raises
    ------
    MismatchError
        If the base has none such, of another shape, or another adapter brings other values.
    """
    for parameter, replacement in adapter.replaced.items():
        change = changes.setdefault(parameter, Change(names.group(parameter)))
        base_info = names.base.info(change.group.stored)
        info = replacement.tensor
        if info.shape != base_info.shape:
            raise MismatchError(
                f"{parameter}: the adapter brings shape {info.shape}, the base's {base_info.name} is {base_info.shape}",
                where=adapter.file.path,
                hint="Was the vocabulary or the head resized for training? Then save the base resized the same way.",
            )
        if info.dtype not in FLOAT_NAMES:
            raise UnsupportedError(f"{info.name} is stored as {info.dtype}", where=adapter.file.path)
        source = Source(adapter.file, info)
        if change.replacement is not None and not same(change.replacement, source):
            raise MismatchError(
                f"{parameter}: two adapters bring different values for it, which can't be summed",
                where=adapter.file.path,
                hint="Merge only one of them, or train them without modules_to_save and biases.",
            )
        change.replacement, change.in_place = source, replacement.in_place
    if adapter.replaced and scale != 1.0:
        warnings.append(
            f"--scale {scale:g} applies to the low-rank updates; {len(adapter.replaced)} tensors that "
            f"{adapter.path.name} brings whole (biases, modules_to_save, embeddings) are taken as they are"
        )


def same(one: Source, other: Source) -> bool:
    """Whether two tensors hold the same values."""
    return np.array_equal(one.file.read(one.tensor.name), other.file.read(other.tensor.name))
