"""Two adapters, or two checkpoints: which tensors differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.differing import Differing
from ..errors import FormatError, UnsupportedError
from ..formats.checkpoint import is_checkpoint, read_checkpoint, read_tensor_file
from ..formats.json_file import read_object
from ..formats.peft.adapter import WEIGHTS_NAMES, find_adapter
from ..formats.peft.config import CONFIG_NAME
from ..formats.tensors import TensorFile, Tensors, numpy_dtype
from ..inputs import watches_inputs
from ..progress import NoProgress, Progress
from ..sources.locate import locate
from ..wording import argument

#: Elements of each tensor that are in memory at a time.
_BLOCK = 1 << 20

#: Settings that say where an adapter or a model comes from, not what it computes.
_ORIGINS = frozenset({
    "_name_or_path", "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "transformers_version",
})  # fmt: skip

_DTYPES = frozenset({"dtype", "torch_dtype"})


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor that differs: its dtypes and shapes in both, and where the shapes agree the largest distance of two
    entries, ||a - b|| over ||a||, the largest distance in units in the last place (where the dtypes agree too), and the
    rank of a matrix's difference above what rounding makes (40 stands for 40 or more)."""

    name: str
    dtypes: list[str]
    shapes: list[list[int]]
    max_abs: float | None
    relative: float | None
    max_ulp: int | None
    rank: int | None


@dataclass(frozen=True, slots=True)
class DiffReport:
    """All that `tinylora diff` says. `settings` names those that differ, with what they are in both."""

    first: str
    second: str
    equal: bool
    tolerance: float
    compared: int
    identical: int
    differences: list[TensorDifference]
    only_in_first: list[str]
    only_in_second: list[str]
    settings: dict[str, list[Any]]
    warnings: list[str]


@watches_inputs
def diff(
    first: str | Path | Tensors,
    second: str | Path | Tensors,
    *,
    tolerance: float = 0.0,
    progress: Progress | None = None,
) -> DiffReport:
    """Compare two adapters or two checkpoints, tensor by tensor, as they are stored; memory doesn't grow with them.

    Parameters
    ----------
    first, second : path, or Tensors
        Directories, or weights files; or what `merged` says that a merge would write.
    tolerance : float
        Up to which ||a - b|| over ||a|| tensors count as equal, whatever their dtypes are. With 0 bits, dtypes and
        settings have to be the same.
    progress : Progress, optional

    Raises
    ------
    FormatError
        Where there are no tensors, or they are damaged.
    UnsupportedError
        For a tolerance below 0 or none, and for tensors that differ and whose numbers can't be read (4-bit ones).
    """
    if not tolerance >= 0:
        raise UnsupportedError(f"{argument('tolerance', tolerance)}, expected 0 or more")
    progress = progress or NoProgress()
    one_side, other_side = (at if isinstance(at, Tensors) else _tensors_at(at) for at in (first, second))
    here, there = one_side.files, other_side.files
    common = [name for name in here if name in there]
    progress.start("Comparing", sum(here[name].tensors[name].nbytes for name in common))
    found, identical = [], 0
    for name in common:
        progress.at(name)
        one = _compared(here[name], there[name], name, progress)
        identical += one is None
        if one is not None and not _within(one, tolerance):
            found.append(one)
    only = [[name for name in some if name not in others] for some, others in ((here, there), (there, here))]
    but = _ORIGINS | _DTYPES if tolerance else _ORIGINS
    settings = _settings(one_side.settings, other_side.settings, but)
    equal = not (found or only[0] or only[1] or settings)
    return DiffReport(
        one_side.name,
        other_side.name,
        equal,
        tolerance,
        len(common),
        identical,
        found,
        only[0],
        only[1],
        settings,
        [*one_side.notes, *other_side.notes],
    )


def _within(one: TensorDifference, tolerance: float) -> bool:
    return one.relative is not None and 0 < tolerance >= one.relative


def _tensors_at(path: str | Path) -> Tensors:
    return Tensors(str(path), *_tensors_of(locate(path)))


def _tensors_of(path: Path) -> tuple[Mapping[str, TensorFile], Mapping[str, Any]]:
    """Each tensor's file, and the settings beside."""
    if path.is_file():
        file = read_tensor_file(path, keep_open=True)
        config = path.parent / CONFIG_NAME
        mine = read_object(config) if path.name in WEIGHTS_NAMES and config.is_file() else {}
        return dict.fromkeys(file.tensors, file), mine
    if is_checkpoint(path):
        checkpoint = read_checkpoint(path)
        files = {name: checkpoint.shards[number] for name, number in checkpoint.shard_of.items()}
        return files, dict(checkpoint.config or {})
    directory = find_adapter(path) or path
    weights = next((directory / name for name in WEIGHTS_NAMES if (directory / name).is_file()), None)
    if weights is None:
        hint = "Name the directory that save_pretrained wrote, or one of its weights files."
        raise FormatError("neither an adapter nor a checkpoint is in this directory", where=path, hint=hint)
    return _tensors_of(weights)


def _settings(mine: Mapping[str, Any], others: Mapping[str, Any], but: frozenset[str]) -> dict[str, list[Any]]:
    """Settings that aren't the same, in the order of their names; those of a file that has none beside it aren't
    compared."""
    if not mine or not others:
        return {}
    names = sorted({*mine, *others} - but)
    pairs = {name: [mine.get(name), others.get(name)] for name in names}
    return {name: pair for name, pair in pairs.items() if _plain(pair[0]) != _plain(pair[1])}


def _plain(value: Any) -> Any:
    """A list of names is a set, which PEFT writes in any order."""
    names = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return sorted(value) if names else value


def _compared(one: TensorFile, other: TensorFile, name: str, progress: Progress) -> TensorDifference | None:
    """How a tensor differs; None where every bit is the same."""
    infos = one.tensors[name], other.tensors[name]
    dtypes, shapes = [info.dtype for info in infos], [list(info.shape) for info in infos]
    if shapes[0] != shapes[1]:
        progress.advance(infos[0].nbytes)
        return TensorDifference(name, dtypes, shapes, None, None, None, None)
    if dtypes[0] == dtypes[1] and _same_bytes(one, other, name):
        progress.advance(infos[0].nbytes)
        return None
    shape = infos[0].shape
    rows, columns = (prod(shape[:-1]), shape[-1]) if shape else (1, 1)
    sums = Differing(rows, columns, sketched=len(shape) == 2)
    for first, a, b in _blocks(one, other, name, columns):
        sums.add(a, b, first)
        progress.advance(a.nbytes)
    figures, rank = sums.figures(), None
    if len(shape) == 2 and np.isfinite(figures.relative) and figures.max_abs > 0:
        sums.start_again()
        for first, a, b in _blocks(one, other, name, columns):
            sums.project(a, b, first)
        rank = sums.rank()
    return TensorDifference(name, dtypes, shapes, figures.max_abs, figures.relative, figures.max_ulp, rank)


def _same_bytes(one: TensorFile, other: TensorFile, name: str) -> bool:
    return all(a == b for a, b in zip(one.pieces(name), other.pieces(name), strict=True))


def _blocks(
    one: TensorFile, other: TensorFile, name: str, columns: int
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """Blocks of whole rows of both, with the number of the first row."""
    rows = max(1, _BLOCK // max(1, columns))
    first = 0
    for a, b in zip(_rows(one, name, rows, columns), _rows(other, name, rows, columns), strict=True):
        yield first, a, b
        first += len(a)


def _rows(file: TensorFile, name: str, rows: int, columns: int) -> Iterator[NDArray[Any]]:
    try:
        dtype = numpy_dtype(file.tensors[name].dtype)
    except KeyError:
        what = f"{name} differs, and its {file.tensors[name].dtype} can't be read as numbers"
        raise UnsupportedError(what, where=file.path) from None
    held, wanted = b"", rows * columns * dtype.itemsize
    for piece in file.pieces(name):
        held += piece
        while len(held) >= wanted:
            yield np.frombuffer(held[:wanted], dtype).reshape(-1, columns)
            held = held[wanted:]
    if held:
        yield np.frombuffer(held, dtype).reshape(-1, columns)
