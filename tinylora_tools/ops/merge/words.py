"""What a merge consists of: the words that planning, writing and reporting it share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ...adapters.load import Adapter
from ...bases.scaled_weight import ScaledWeight
from ...bases.tensor_names import TiedGroup
from ...formats.peft.adapter import Factors
from ...formats.tensors import TensorFile, TensorInfo


@dataclass(frozen=True, slots=True)
class Update:
    """One adapter's delta for one module; its factors are read when they are needed.

    `R` (r, r) float64 includes the adapter's scale. `transposed`: the weight is stored (in, out); `as_stored`: its
    factors are those of it as it is stored all the same.
    """

    adapter: Adapter
    module: str
    R: NDArray[Any]
    transposed: bool
    as_stored: bool = False

    def factors(self) -> Factors:
        """A (r, in) and B (out, r), as stored."""
        return self.adapter.factors(self.module)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor's values come from."""

    file: TensorFile
    tensor: TensorInfo


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a tensor: its values, and the updates that are added to them."""

    source: Source
    updates: tuple[Update, ...] = ()

    @property
    def dequantized(self) -> bool:
        """Whether its values are computed from a quantized weight."""
        return isinstance(self.source.file, ScaledWeight)

    def is_copy(self, place: TensorInfo) -> bool:
        """Whether the bytes that go there are those that are stored."""
        return not self.updates and not self.dequantized and self.source.tensor.dtype == place.dtype


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A shard to write: its header, and for each of its tensors the place in the file and what goes there."""

    name: str
    header: bytes
    tensors: tuple[tuple[TensorInfo, Outcome], ...]

    @property
    def size(self) -> int:
        return self.tensors[-1][0].end if self.tensors else len(self.header)


@dataclass(frozen=True, slots=True)
class NewHead:
    """The head that the model gets from an adapter: the class that has it, the modules that make it up, and how many
    labels it tells apart."""

    class_name: str
    modules: tuple[str, ...]
    labels: int


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Everything that a merge writes but the files that it copies.

    `index` is None for a single file; `config` holds the entries of config.json that change, with None for one that
    goes. `tied` is "untied", "shared" or "kept". `doubt` says why the adapters may have been trained on other weights
    than the base's, or nothing.
    """

    files: tuple[OutputFile, ...]
    index: bytes | None
    config: dict[str, Any]
    tied: str
    warnings: tuple[str, ...]
    head: NewHead | None = None
    doubt: str = ""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def outcomes(self) -> list[Outcome]:
        """What becomes of each tensor, file by file."""
        return [outcome for file in self.files for _, outcome in file.tensors]


@dataclass(frozen=True, slots=True)
class Change:
    """All that the adapters ask of one parameter."""

    group: TiedGroup
    updates: tuple[Update, ...] = ()
    replacement: Source | None = None
    in_place: bool = False


@dataclass(slots=True)
class Settled:
    """Outcomes by tensor name; `added` maps the names that the base lacks to the tensor that each was tied to,
    `dropped` are the base's tensors that the output hasn't."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    tied: str = "kept"
