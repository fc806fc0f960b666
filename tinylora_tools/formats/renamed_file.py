"""A file's tensors under other names, and names of tensors that it is yet to get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tensors import TensorFile, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RenamedFile:
    """A `TensorFile` that has some of another's tensors, each where it is there.

    Attributes
    ----------
    file : TensorFile
    names : Mapping[str, str]
        Each name here to the one there.
    declared : Mapping[str, TensorInfo]
        Tensors that are listed but can't be read, for who brings their values from elsewhere.
    """

    file: TensorFile
    names: Mapping[str, str] = field(repr=False)
    declared: Mapping[str, TensorInfo] = field(default_factory=dict, repr=False)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.file.metadata

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        renamed = {new: replace(self.file.tensors[old], name=new) for new, old in self.names.items()}
        return {**renamed, **self.declared}

    def read(self, name: str) -> NDArray[Any]:
        return self.file.read(self.names[name])

    def pieces(self, name: str) -> Iterator[bytes]:
        return self.file.pieces(self.names[name])
