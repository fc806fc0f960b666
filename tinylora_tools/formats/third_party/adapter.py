"""What every third-party dialect is read into, and the settings that its files leave open.

A module of such an adapter adds scale U S R Vh to its weight, with R = sum_i v_i P_i (r, r) and the weight's singular
triplets U (out, r), S (r,), Vh (r, in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, UndeterminedError
from ...wording import argument
from ..checkpoint import Checkpoint
from ..pickled.stored import StoredTensor
from ..tensors import DTYPE_OF

#: What these projects adapt unless told otherwise.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A module's frozen factors as a file stores them.

    Attributes
    ----------
    left, right : array
        (out, r) and (r, in).
    S : array, optional
        The singular values, (r,), where `left` is U and `right` Vh; None where `left` is U S.
    rooted : bool
        Whether the project multiplies both sides by sqrt(S), rounded to their dtype, instead of the left one by S.
    """

    left: NDArray[Any]
    right: NDArray[Any]
    S: NDArray[Any] | None = None
    rooted: bool = False


class Settings:
    """What the user says of an adapter that its files don't, by name."""

    def __init__(self, values: Mapping[str, str], path: Path) -> None:
        self._values, self._path, self._known = dict(values), path, list[str]()

    def text(self, name: str, why: str, default: str | None = None, *, among: Sequence[str] = ()) -> str:
        """A setting; `why` says what it is, for the message where it is needed and not given.

        Raises
        ------
        UndeterminedError
            If it isn't given and has no default.
        FormatError
            If it isn't one of `among`.
        """
        self._known.append(name)
        value = self._values.get(name, default)
        if value is None:
            raise UndeterminedError(
                f"{name} isn't in the file: {why}",
                where=self._path,
                hint=f"Give it with {argument('settings', {name: ...})}.",
            )
        if among and value not in among:
            raise FormatError(f"{argument('settings', {name: value})}, expected one of {', '.join(among)}")
        return value

    def integer(self, name: str, why: str, default: int | None = None) -> int:
        """As `text`, a whole number."""
        text = self.text(name, why, None if default is None else str(default))
        try:
            return int(text)
        except ValueError:
            raise FormatError(f"{argument('settings', {name: text})}, expected a whole number") from None

    def positive(self, name: str, why: str, default: int | None = None) -> int:
        """As `integer`, 1 or more."""
        value = self.integer(name, why, default)
        if value < 1:
            raise FormatError(f"{argument('settings', {name: value})}, expected 1 or more")
        return value

    def number(self, name: str, why: str) -> float:
        """As `text`, a finite number."""
        text = self.text(name, why)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise FormatError(f"{argument('settings', {name: text})}, expected a number")
        return value

    def names(self, name: str, why: str, default: Sequence[str]) -> tuple[str, ...]:
        """As `text`, names with commas between them."""
        return tuple(part.strip() for part in self.text(name, why, ",".join(default)).split(",") if part.strip())

    def path(self, name: str, why: str) -> Path:
        """As `text`, the path of a file."""
        path = Path(self.text(name, why))
        try:
            return path.expanduser()
        except RuntimeError:  # the ~ of nobody who is known here
            return path

    def finish(self) -> None:
        """Raise FormatError for a setting that nobody asked for."""
        for name in self._values:
            if name not in self._known:
                known = f"It takes {', '.join(self._known)}." if self._known else "It takes none."
                raise FormatError(
                    f"{argument('settings')} {name}: this dialect has no such setting", where=self._path, hint=known
                )


class ThirdPartyAdapter(ABC):
    """An adapter in a dialect of its own.

    Attributes
    ----------
    dialect : str
    path : Path
        The file that holds v.
    rank, proj_dim : int
        r and u.
    vectors : tuple of array
        v of each group, (u,).
    trained_in : str
        The dtype that U, S, Vh, P and v have in the forward pass: "float32", "bfloat16", or "weight" for the weight's.
    names : tuple of str, optional
        The modules, where the file lists them.
    ordered : bool
        Whether `names` are in the order of named_modules().
    base_model : str, optional
        What the file says of the base.
    checkpoint : Checkpoint, optional
        Where v lies in one: its weights are the base's.
    notes : list of str
        What the user should know of this adapter.
    """

    dialect: ClassVar[str]
    trained_in: str = "float32"
    names: tuple[str, ...] | None = None
    ordered: bool = False
    base_model: str | None = None
    checkpoint: Checkpoint | None = None

    def __init__(self, path: Path, rank: int, proj_dim: int, vectors: Sequence[NDArray[Any]]) -> None:
        self.path, self.rank, self.proj_dim, self.vectors = path, rank, proj_dim, tuple(vectors)
        self.notes: list[str] = []

    def adapts(self, name: str) -> bool:
        """Whether a linear layer of this name is adapted."""
        return self.names is not None and name in self.names

    @abstractmethod
    def groups(self, names: Sequence[str]) -> list[int]:
        """Each module's group, for the modules in the order of named_modules()."""

    def frozen(self, name: str) -> Frozen | None:
        """The module's stored factors; None where they are made from the weight."""
        return None

    def projection(self, name: str) -> NDArray[Any] | None:
        """The module's stored P (u, r, r); None where it is drawn."""
        return None

    def seeds(self, names: Sequence[str]) -> list[int] | None:
        """What each module's P is drawn from, as torch.randn(u, r, r) / sqrt(r); None where that is lost."""
        return None

    def lost_projection(self) -> str:
        """Why P can't be drawn, where `seeds` is None and nothing is stored."""
        return "P isn't stored"

    def scale(self, name: str) -> float:
        """What the update is multiplied by."""
        return 1.0

    def shape_projection(self, P: NDArray[Any]) -> NDArray[Any]:
        """P (u, r, r) from what the user supplies: a P as the project's module holds it."""
        return P


def same_size(vectors: Sequence[NDArray[Any]], path: Path) -> int:
    """u, the size that all the vectors have.

    Raises
    ------
    FormatError
        If there is no vector, or they differ.
    """
    shapes = {v.shape for v in vectors}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or next(iter(shapes)) == (0,):
        raise FormatError(
            f"its vectors have the shapes {', '.join(map(str, sorted(shapes))) or 'of none'}, expected one (u,)",
            where=path,
            hint="Was the file cut short or edited? Save the adapter again.",
        )
    return int(next(iter(shapes))[0])


def is_tensor(value: object) -> bool:
    """Whether something from a pickle is a tensor."""
    return isinstance(value, StoredTensor)


def vector_of(value: Any, name: str, path: Path) -> NDArray[Any]:
    """A tensor from a pickle as an array."""
    if not isinstance(value, StoredTensor):
        raise FormatError(f"{name} is a {type(value).__name__}, expected a tensor", where=path)
    return floating(value.read(), name, path)


def floating(values: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    """The array itself; FormatError where its dtype isn't one that weights have."""
    if values.dtype.name not in DTYPE_OF:
        raise FormatError(f"{name} is {values.dtype.name}, expected a floating-point tensor", where=path)
    return values
