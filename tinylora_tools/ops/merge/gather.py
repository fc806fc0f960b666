"""What an adapter asks of its base: each update and each replaced parameter, checked and given its place."""

from __future__ import annotations

from ...adapters.load import LoadedAdapter
from ...adapters.updates import embedding_scale, projected_vectors
from ...bases.orientation import is_transposed
from ...bases.tensor_names import BaseNames, refuse_packed
from ...errors import MismatchError, UnsupportedError
from ...formats.peft_adapter import PeftAdapter
from ...formats.tensors import FLOAT_NAMES, numpy_dtype, same_values
from .words import Change, Source, Update


def gather_updates(
    loaded: LoadedAdapter, scale: float, names: BaseNames, changes: dict[str, Change], release: str | None
) -> None:
    """Add each module's update to `changes`, by the parameter's name in the model.

    Raises
    ------
    UndeterminedError
        If a P, a group or an embedding's scale can't be known.
    MismatchError, UnsupportedError
        If a weight isn't in the base, has another shape, or can't be changed.
    """
    adapter = loaded.adapter
    for module, R in projected_vectors(loaded, scale).items():
        parts = adapter.modules[module]
        parameter = f"{module}.weight"
        change = changes.setdefault(parameter, Change(names.group(parameter)))
        refuse_packed(names.base, change.group.stored)
        dtype = numpy_dtype(names.base.info(change.group.stored).dtype)
        R = R / embedding_scale(loaded, module, dtype, release)
        expected = (parts.out_features, parts.in_features)
        transposed = is_transposed(names, adapter, module, expected, change.group.stored)
        change.updates.append(Update(adapter, module, R, transposed))


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
    return same_values(one.file, one.tensor.name, other.file, other.tensor.name)
