"""Adapters opened for a verb that writes them anew, once it is sure that its output may be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..adapters import soundness
from ..adapters.load import Adapter
from ..adapters.source import Source, find_sources
from ..bases.base import Base, open_base
from ..errors import MismatchError
from ..output.staging import check_file, check_output, keep_apart
from ..wording import argument

#: What a verb takes for an adapter.
AdapterLike = str | Path | Source | Adapter


def opened_for(
    output: Path,
    adapters: Sequence[AdapterLike] | AdapterLike,
    base: str | Path | Base | None,
    *,
    force: bool,
    file: bool = False,
    **given: Any,
) -> tuple[list[Adapter], list[Path]]:
    """Sound adapters, their tensors in memory; and the inputs that the output is kept apart from.

    Parameters
    ----------
    output : Path
        A directory that isn't there, or with `force` may be replaced.
    adapters : path, open adapter, or a sequence of them
    base : path, optional
        A model's directory, or a weights file of it.
    file : bool
        Whether the output is a file, which may lie in an input's directory as long as it replaces nothing.
    given
        As `Source.open` takes it.

    Raises
    ------
    OutputError
        If the output may not be written; nothing was computed then.
    MismatchError
        If an adapter isn't sound, or two name different bases and `base` doesn't say which.
    """
    sources = find_sources(adapters)
    at = None if base is None else open_base(base, afar=True).require_model()
    inputs = [path for source in sources for path in source.inputs(at)]
    if not file:
        check_output(output, force=force, inputs=inputs)
    else:
        check_file(output, force=force)
        if output.exists():
            keep_apart(output, inputs)
    opened = [source.open(at, in_memory=True, **given) for source in sources]
    for adapter in opened:
        soundness.check(adapter)
    if base is None:
        _require_one_base(opened)
    return opened, inputs


def _require_one_base(opened: Sequence[Adapter]) -> None:
    """Raise MismatchError where adapters name different bases: their updates are for different weights."""
    names = dict.fromkeys(name for one in opened if (name := one.config.base_model_name_or_path))
    if len(names) > 1:
        raise MismatchError(
            f"the adapters name different bases: {', '.join(names)}",
            hint=f"If they are one, say with {argument('base')} which; else convert them one by one.",
        )
