"""A base checkpoint as transformers saves it: one file, or shards and an index; safetensors or pickled.

Where several are present, the order of preference is from_pretrained's: `model.safetensors`, its index,
`pytorch_model.bin`, its index (transformers 5.23, modeling_utils.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import FormatError
from ..inputs import is_there
from .json_file import read_object
from .memory_file import MemoryFile
from .placeholders import GATHER, refuse_pointer, said_of_spread, spread
from .plain_names import plain_names, renamed
from .safetensors_file import read_header
from .tensors import TensorFile, TensorInfo
from .torch_file import read_torch_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAFETENSORS_NAME = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
_BIN_NAME = "pytorch_model.bin"
_BIN_INDEX = "pytorch_model.bin.index.json"
_EXPECTED = (SAFETENSORS_NAME, SAFETENSORS_INDEX, _BIN_NAME, _BIN_INDEX)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint: its headers; `read` gives a tensor.

    Attributes
    ----------
    path : Path
        The directory, or the single file that was named.
    config : Mapping, optional
        `config.json`, where there is one.
    shards : tuple of TensorFile
        In the order of their names.
    shard_of : Mapping[str, int]
        Tensor name to its place in `shards`. With an index, exactly the names that the index lists.
    index : Mapping, optional
        The index file's content.
    held : Mapping[str, TensorFile]
        Tensors that are read from elsewhere: kept in memory, or seen as what they stand for.
    notes : tuple of str
        What to know of its names.
    """

    path: Path
    config: Mapping[str, Any] | None
    shards: tuple[TensorFile, ...]
    shard_of: Mapping[str, int]
    index: Mapping[str, Any] | None = None
    held: Mapping[str, TensorFile] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def of_file(cls, path: Path, file: TensorFile, config: Mapping[str, Any] | None = None) -> Checkpoint:
        """A single weights file, which was named by `path`; `config` as `read_checkpoint`."""
        config = read_model_config(path.parent) if config is None else config
        return _plainly(cls(path, config, (file,), dict.fromkeys(file.tensors, 0)))

    def __contains__(self, name: object) -> bool:
        return name in self.shard_of

    def info(self, name: str) -> TensorInfo:
        """A tensor as `read` gives it."""
        return self.source(name).tensors[name]

    def stored(self, name: str) -> TensorInfo:
        """A tensor as it stands in its shard."""
        return self.shards[self.shard_of[name]].tensors[name]

    def source(self, name: str) -> TensorFile:
        """The file, or what stands for it, that a tensor is read from."""
        return self.held.get(name) or self.shards[self.shard_of[name]]

    def read(self, name: str) -> NDArray[Any]:
        """A tensor's values."""
        return self.source(name).read(name)

    def reading(self, tensors: Mapping[str, TensorFile]) -> Checkpoint:
        """The same checkpoint, which reads these of its tensors from elsewhere."""
        return replace(self, held={**self.held, **tensors})

    def holding(self, tensors: Mapping[str, NDArray[Any]]) -> Checkpoint:
        """The same checkpoint with these of its tensors kept in memory."""
        return self.reading({n: MemoryFile(self.source(n).path, {n: a}) for n, a in tensors.items()})

    def tensor_infos(self) -> list[TensorInfo]:
        """Every tensor of the checkpoint, shard by shard, in the order of the data."""
        return [
            info
            for number, shard in enumerate(self.shards)
            for name, info in shard.tensors.items()
            if self.shard_of.get(name) == number
        ]


def is_checkpoint(path: Path) -> bool:
    """Whether a directory holds one of the files that a checkpoint starts from."""
    return any((path / name).is_file() for name in _EXPECTED)


def lacks_shards(directory: Path) -> bool:
    """Whether a directory has an index, and not all files that it names."""
    first = next((name for name in _EXPECTED if (directory / name).is_file()), None)
    if first not in (SAFETENSORS_INDEX, _BIN_INDEX):
        return False
    weight_map = read_object(directory / first).get("weight_map")
    names = {*weight_map.values()} if isinstance(weight_map, dict) else set()
    return not all(isinstance(name, str) and (directory / name).is_file() for name in names)


class Files(Protocol):
    """Weights files of a directory that may be elsewhere than on this machine."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def open(self, name: str) -> TensorFile:
        """It, its header read; raises as `read_tensor_file`."""


@dataclass(frozen=True, slots=True)
class _Here:
    """Those of this machine."""

    directory: Path

    def has(self, name: str) -> bool:
        return (self.directory / name).is_file()

    def open(self, name: str) -> TensorFile:
        return read_tensor_file(self.directory / name)


def read_checkpoint(path: Path, config: Mapping[str, Any] | None = None, files: Files | None = None) -> Checkpoint:
    """Read the headers of a checkpoint directory, or of a single weights file; `config` is its config.json, where that
    was read already, and `files` has its weights, where they aren't there; the index is, if there is one.

    Raises
    ------
    FormatError
        For a directory without weights, a damaged file, a shard that is missing, or an index that disagrees with its
        shards or names files outside the directory.
    """
    if path.is_file():
        return Checkpoint.of_file(path, read_tensor_file(path), config)
    config = read_model_config(path) if config is None else config
    files = files or _Here(path)
    for single, index in ((SAFETENSORS_NAME, SAFETENSORS_INDEX), (_BIN_NAME, _BIN_INDEX)):
        if files.has(single):
            shard = files.open(single)
            return _plainly(Checkpoint(path, config, (shard,), dict.fromkeys(shard.tensors, 0)))
        if (path / index).is_file():
            return _read_sharded(path, index, config, files)
    raise FormatError(
        "no checkpoint here: none of " + ", ".join(_EXPECTED),
        where=path,
        hint="Name the directory that holds the base model's weights and its config.json.",
    )


def is_whole(path: Path) -> bool:
    """Whether a weights file is all that `read_checkpoint` takes of its directory, where a config.json is too."""
    directory = path.parent
    first = next((name for name in _EXPECTED if (directory / name).is_file()), None)
    return path.name == first and first in (SAFETENSORS_NAME, _BIN_NAME) and (directory / "config.json").is_file()


def read_tensor_file(path: Path, *, keep_open: bool = False) -> TensorFile:
    """One weights file: safetensors by its header alone, anything else by its pickle, which isn't run."""
    if path.suffix == ".safetensors":
        return read_header(path, keep_open=keep_open)
    try:
        return read_torch_file(path)
    except FormatError:
        refuse_pointer(path)
        raise


def read_model_config(directory: Path) -> Mapping[str, Any] | None:
    """`config.json` of a model's directory; None where there is none."""
    path = directory / "config.json"
    return read_object(path) if is_there(path) else None


def _read_sharded(directory: Path, index_name: str, config: Mapping[str, Any] | None, files: Files) -> Checkpoint:
    index_path = directory / index_name
    index = read_object(index_path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FormatError("weight_map isn't a map from tensor names to file names", where=index_path)
    names = sorted(set(weight_map.values()))
    for name in names:
        _check_inside(name, index_path)
    missing = [name for name in names if not files.has(name)]
    if missing:
        raise FormatError(
            f"{len(missing)} of the {len(names)} shards that the index lists aren't there: {_few(missing)}",
            where=index_path,
            hint="Finish the download, or copy the missing files beside the index.",
        )
    shards = tuple(files.open(name) for name in names)
    number = {name: position for position, name in enumerate(names)}
    shard_of = {tensor: number[name] for tensor, name in weight_map.items()}
    absent = [tensor for tensor, position in shard_of.items() if tensor not in shards[position].tensors]
    if absent:
        raise FormatError(
            f"the index places {_few(absent)} in {weight_map[absent[0]]}, which doesn't hold it",
            where=index_path,
            hint="The index belongs to other shards: restore the checkpoint, or save it again.",
        )
    return _plainly(Checkpoint(directory, config, shards, shard_of, index))


def _plainly(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint without what a wrapped model left in its tensors' names.

    Raises
    ------
    FormatError
        If its weights are spread over the processes that trained it.
    """
    for shard in checkpoint.shards:
        if weights := [name for name in spread(shard.tensors) if name.endswith("weight")]:
            raise FormatError(said_of_spread(weights), where=shard.path, hint=GATHER)
    names = plain_names(dict.fromkeys(name for shard in checkpoint.shards for name in shard.tensors))
    if not names:
        return checkpoint
    first = next(iter(names))
    return replace(
        checkpoint,
        shards=tuple(renamed(shard, names) for shard in checkpoint.shards),
        shard_of={names.get(name, name): number for name, number in checkpoint.shard_of.items()},
        notes=(f"{len(names)} tensors were saved of a wrapped model: {first} is taken for {names[first]}, and so on",),
    )


def leads_out(name: str) -> bool:
    """Whether a file's name isn't one in the directory that it is listed for."""
    parts = PurePosixPath(name).parts
    return not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name


def _check_inside(name: str, index_path: Path) -> None:
    if leads_out(name) or ":" in name:
        raise FormatError(
            f"the index names {name!r}, which is outside its directory",
            where=index_path,
            hint="Don't use this checkpoint unless you know where it comes from.",
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
