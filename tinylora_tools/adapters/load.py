"""An open adapter: what every operation works on, whatever form it came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bases.architectures.architecture import Architecture
from ..bases.architectures.named import from_class_name
from ..bases.base import Base
from ..bases.listing import read_module_order
from ..core.lowrank import left_factor, projected, training_dtype
from ..core.streams import projection
from ..errors import UndeterminedError
from ..formats.peft.adapter import Factors, ModuleTensors, PeftAdapter
from ..formats.peft.config import TinyLoraConfig
from ..formats.peft.release import Seeding
from ..sources.locate import locate, locate_base
from . import soundness
from .numbering import Numbering, number_modules
from .order import FirstAdapter, first_in
from .provenance import Provenance, drawn_projections, provenance, require_seed

#: What of an adapter follows from its base and order, and stays with them.
_BY_ORDER = frozenset({"base", "architecture", "numbering"})

#: Names of modules in the order of named_modules(), or a file that lists them, one a line.
ModuleOrder = str | Path | Sequence[str] | None


class Adapter:
    """An adapter's open file, with what its configuration, its base and the user tell of its modules.

    Nothing but the header has been read at first; A and B are read each time that they are asked for.

    Parameters
    ----------
    header : PeftAdapter
    base : Base, optional
        What tells the architecture; where it is None, the base that the adapter names, if that is at hand.
    module_order : sequence of str, or a file, optional
        Modules in the order of named_modules(), the targeted ones among them, where no architecture tells it.
    first_adapter : path, or sequence of str, optional
        The adapter that was in the model before this one, or its targeted modules; this one itself, if it was first.
    seeding : "index" or "salted", optional
        What P is drawn from, where the release that wrote the adapter doesn't tell.
    stream : str
        Whose arithmetic a P that isn't stored is drawn with, of `core.streams.projection.STREAMS`.
    imported : tuple of str
        What to know of how the adapter came to be in PEFT's form.
    companions : Path, optional
        The directory whose other files belong to the adapter.
    numbering : Numbering, optional
        Places and groups, where they are known already.
    """

    def __init__(
        self,
        header: PeftAdapter,
        *,
        base: Base | None = None,
        module_order: ModuleOrder = None,
        first_adapter: ModuleOrder | FirstAdapter = None,
        seeding: Seeding | None = None,
        stream: str = projection.DEFAULT_STREAM,
        imported: tuple[str, ...] = (),
        companions: Path | None = None,
        numbering: Numbering | None = None,
    ) -> None:
        self.header = header if seeding is None else soundness.with_seeding(header, seeding)
        self.stream = stream
        self.imported = imported
        self.companions = companions
        self._base = base
        self._module_order = order_in(module_order)
        self._first_adapter = first_in(first_adapter, header)
        self._dtypes: dict[str, str] = {}
        self._vectors: dict[int, NDArray[Any]] = {}
        if numbering is not None:
            self.numbering = numbering

    def on(
        self,
        base: Base | None = None,
        *,
        module_order: ModuleOrder = None,
        first_adapter: ModuleOrder = None,
        seeding: Seeding | None = None,
        stream: str | None = None,
    ) -> Adapter:
        """The same open adapter with another base, order or stream; None keeps what it has."""
        other = Adapter(
            self.header,
            base=self._base if base is None else base,
            module_order=self._module_order if module_order is None else module_order,
            first_adapter=self._first_adapter if first_adapter is None else first_adapter,
            seeding=seeding,
            stream=self.stream if stream is None else stream,
            imported=self.imported,
            companions=self.companions,
        )
        other._dtypes, other._vectors = self._dtypes, self._vectors
        as_it_was = base is None and module_order is None and first_adapter is None
        known = {"provenance", *_BY_ORDER} if as_it_was else {"provenance"}
        vars(other).update({name: value for name, value in vars(self).items() if name in known})
        return other

    def holding(self, header: PeftAdapter, note: str) -> Adapter:
        """The same adapter with other content, and a note on where that comes from."""
        return Adapter(
            replace(header, said_seeding=self.header.said_seeding),
            base=self._base,
            module_order=self._module_order,
            first_adapter=self._first_adapter,
            stream=self.stream,
            imported=(*self.imported, note),
            companions=self.companions,
        )

    def __repr__(self) -> str:
        return f"<Adapter {self.path}: {len(self.modules)} modules, r={self.config.r}, u={self.config.u}>"

    @property
    def path(self) -> Path:
        """What was named: a directory or a file."""
        return self.header.path

    @property
    def config(self) -> TinyLoraConfig:
        return self.header.config

    @property
    def modules(self) -> Mapping[str, ModuleTensors]:
        """The targeted modules by their name in the model, in no particular order: what is stored of each."""
        return self.header.modules

    @property
    def seed(self) -> int:
        """projection_seed: module i's P is drawn from seed + i."""
        return self.config.projection_seed

    @cached_property
    def base(self) -> Base | None:
        """The base that was given, or the one that the adapter names, where it is at hand."""
        return self._base if self._base is not None else named_base(self.header)

    @cached_property
    def architecture(self) -> Architecture | None:
        """The base's; where none is at hand, or none has a config.json, what the adapter's own names."""
        base, name = self.base, self.config.base_class
        if base is not None and (base.architecture is not None or base.config is not None):
            return base.architecture
        return from_class_name(name) if name else None

    @cached_property
    def provenance(self) -> Provenance:
        """Where the stored P come from; they are read for it."""
        return provenance(self.header)

    @cached_property
    def numbering(self) -> Numbering:
        return number_modules(
            self.header,
            self.provenance,
            architecture=self.architecture,
            module_order=self._module_order,
            first_adapter=self._first_adapter,
            base=self.base,
        )

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this adapter before it is used."""
        return tuple(soundness.notes(self))

    @property
    def order(self) -> list[str]:
        """The modules in the order of named_modules(); raises as `places`."""
        if self.numbering.order is None:
            raise self._doubt()
        return self.numbering.order

    @property
    def places(self) -> Mapping[str, int]:
        """The place that each module's seed follows: its own among those targeted, in the order of named_modules(), or
        that of an adapter which was in the model first.

        Raises
        ------
        UndeterminedError
            If no file tells it.
        """
        if self.numbering.index is None:
            raise self._doubt()
        return self.numbering.index

    @property
    def groups(self) -> Mapping[str, int]:
        """The group of each module, whose trained vector it shares.

        Raises
        ------
        UndeterminedError, MismatchError
            If no file tells it, or they contradict each other.
        """
        if self.numbering.group is None:
            raise self._doubt()
        return self.numbering.group

    def _doubt(self) -> Exception:
        doubts = self.numbering.doubts
        return doubts[0] if doubts else UndeterminedError("the modules' order isn't known", where=self.header.file.path)

    def factors(self, module: str) -> Factors:
        """A (r, in) and B (out, r), as stored."""
        return self.header.factors(module)

    def vector(self, group: int) -> NDArray[Any]:
        """The trained vector of a group, (u,), as stored; read once."""
        if group not in self._vectors:
            self._vectors[group] = self.header.vector(group)
        return self._vectors[group]

    def projection(self, module: str) -> NDArray[Any]:
        """P (u, r, r) in float32: as stored, else drawn as PEFT would draw it.

        Raises
        ------
        UndeterminedError
            If it has to be drawn, and its seed or the module's place can't be known.
        """
        stored = self.header.stored_projection(module)
        return self._drawn([module])[module] if stored is None else stored.astype(np.float32)

    def projections(self) -> dict[str, NDArray[Any]]:
        """P of every module; raises as `projection`."""
        found, missing = {}, []
        for module in self.modules:
            stored = self.header.stored_projection(module)
            if stored is None:
                missing.append(module)
            else:
                found[module] = stored.astype(np.float32)
        return found | (self._drawn(missing) if missing else {})

    def _drawn(self, modules: Sequence[str]) -> dict[str, NDArray[Any]]:
        require_seed(self.header)  # where the seed is lost, knowing the order wouldn't help
        return drawn_projections(self.header, modules, self.places, self.training_dtype, stream=self.stream)

    def R(self, module: str) -> NDArray[Any]:
        """R = sum_i v_i P_i, (r, r) in float64; raises as `groups` and `projection`."""
        return projected(self.vector(self.groups[module]), self.projection(module))

    def delta(self, module: str) -> NDArray[Any]:
        """What the adapter adds to the module's weight, B R A, (out, in) in float64; raises as `R`."""
        A, B = self.factors(module)
        if self.modules[module].P is None and module not in self._dtypes:  # R needs it to draw P
            self._dtypes[module] = training_dtype(A, B)
        return left_factor(B, self.R(module)) @ A.astype(np.float64)

    def training_dtype(self, module: str) -> str:
        """The dtype that the module's weight had when PEFT made its factors: "bfloat16", "float16" or "float32"."""
        if module not in self._dtypes:
            self._dtypes[module] = training_dtype(*self.factors(module))
        return self._dtypes[module]


def order_in(order: ModuleOrder) -> tuple[str, ...] | None:
    """Module names as they are given, or from the file that is named."""
    if order is None:
        return None
    return tuple(read_module_order(locate(order)) if isinstance(order, (str, Path)) else order)


def named_base(header: PeftAdapter) -> Base | None:
    """The base that the adapter's configuration names, where it is at hand."""
    name = header.config.base_model_name_or_path
    found = locate_base(name, header.config.revision, header.directory) if name else None
    return None if found is None else Base(found)
