"""A TinyLoRA adapter's open file, its keys sorted by what they are (`peft_keys`), and its configuration.

Whether the parts fit each other and a base is for the callers to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import FormatError, UnsupportedError
from ...inputs import is_there
from ..checkpoint import read_tensor_file
from ..memory_file import MemoryFile
from ..placeholders import GATHER, said_of_spread, spread
from ..plain_names import renamed
from ..safetensors_file import SafetensorsFile
from ..tensors import TensorFile, TensorInfo
from .config import CONFIG_NAME, TinyLoraConfig, read_config
from .keys import COPY, FACTOR, LONGEST, REPLACED, VECTOR, is_adapter, plain_keys
from .release import Seeding, seeding

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS_NAMES = ("adapter_model.safetensors", "adapter_model.bin")


class Factors(NamedTuple):
    """A module's frozen factors as the file stores them: A (r, in) and B (out, r)."""

    A: NDArray[Any]
    B: NDArray[Any]


@dataclass(frozen=True, slots=True)
class ModuleTensors:
    """Where one targeted module's tensors are; P is None where the adapter leaves it to the seed."""

    A: TensorInfo
    B: TensorInfo
    P: TensorInfo | None

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def in_features(self) -> int:
        return self.A.shape[1]

    @property
    def out_features(self) -> int:
        return self.B.shape[0]


@dataclass(frozen=True, slots=True)
class Replacement:
    """A parameter of the base that the adapter brings whole.

    `in_place`: it is the model's own parameter, a layer's `base_layer` or a bias, so tied parameters share it;
    modules_to_save are copies of their own.
    """

    tensor: TensorInfo
    in_place: bool


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter's open file, its keys sorted by what they are.

    Attributes
    ----------
    path : Path
        What was named: the directory or the file.
    file : TensorFile
    config : TinyLoraConfig
        Where no adapter_config.json stands beside the file (`has_config` is false), what the tensors tell.
    modules : Mapping[str, ModuleTensors]
        Targeted modules by their name in the model, in the file's order (which is no module order).
    vectors : Mapping[int, TensorInfo]
        Group to its v.
    replaced : Mapping[str, Replacement]
        By the parameter's name in the model.
    copies : tuple of str
        Keys by which bias="all" saves what `replaced` has once more, or the base's own, unused.
    leaked : Mapping[str, Mapping[str, tuple[str, ...]]]
        Other adapters that PEFT 0.19 saved along: adapter name to its modules, and the keys of each.
    unknown : tuple of str
        Keys that no PEFT release writes.
    said_seeding : "index" or "salted", optional
        What its user says of the seeds of P, where its release doesn't tell.
    """

    path: Path
    file: TensorFile
    config: TinyLoraConfig
    has_config: bool
    modules: Mapping[str, ModuleTensors]
    vectors: Mapping[int, TensorInfo]
    replaced: Mapping[str, Replacement]
    copies: tuple[str, ...]
    leaked: Mapping[str, Mapping[str, tuple[str, ...]]]
    unknown: tuple[str, ...]
    said_seeding: Seeding | None = None

    @property
    def seeding(self) -> Seeding | None:
        """What P is drawn from, by the release that wrote the adapter, or by who used it; None where it isn't known."""
        return self.said_seeding or (seeding(self.config.peft_version) if self.config.peft_version else None)

    @property
    def directory(self) -> Path:
        return self.file.path.parent

    @property
    def has_projections(self) -> bool:
        return all(parts.P is not None for parts in self.modules.values())

    @property
    def leaked_keys(self) -> frozenset[str]:
        """Keys of other adapters that were saved along."""
        return frozenset(key for modules in self.leaked.values() for keys in modules.values() for key in keys)

    def factors(self, module: str) -> Factors:
        """A (r, in) and B (out, r), as stored."""
        parts = self.modules[module]
        return Factors(self.file.read(parts.A.name), self.file.read(parts.B.name))

    def stored_projection(self, module: str) -> NDArray[Any] | None:
        """P (u, r, r) as stored; None where the file leaves it to the seed."""
        P = self.modules[module].P
        return None if P is None else self.file.read(P.name)

    def vector(self, group: int) -> NDArray[Any]:
        """The trained vector of a group, (u,), as stored."""
        return self.file.read(self.vectors[group].name)

    def in_memory(self) -> PeftAdapter:
        """The same adapter with its own tensors read, each once: for who needs them all, or some several times."""
        leaked = self.leaked_keys
        own = {name: info for name, info in self.file.tensors.items() if name not in leaked}
        return replace(self, file=MemoryFile.of(self.file, own))


def find_adapter(directory: Path) -> Path | None:
    """The directory of the one adapter in `directory`: itself, or the sub-directory in which PEFT puts an adapter that
    isn't named "default". None where there is no adapter.

    Raises
    ------
    FormatError
        If several sub-directories hold one.
    """
    if (directory / CONFIG_NAME).is_file() or any((directory / name).is_file() for name in WEIGHTS_NAMES):
        return directory
    found = sorted(path.parent for path in directory.glob(f"*/{CONFIG_NAME}"))
    if len(found) > 1:
        raise FormatError(
            f"holds {len(found)} adapters: " + ", ".join(path.name for path in found),
            where=directory,
            hint="Name the one that you mean.",
        )
    return found[0] if found else None


def read_adapter(path: Path) -> PeftAdapter:
    """Open an adapter by its directory, or by its weights file: its header and its configuration are read.

    Raises
    ------
    FormatError
        For a missing or damaged file, a module without A or B, or shapes that can't be factors.
    UnsupportedError
        For an adapter that isn't TinyLoRA.
    """
    weights = _weights_of(path) if path.is_dir() else path
    return adapter_in(path, read_tensor_file(weights, keep_open=True))


def adapter_in(path: Path, file: TensorFile) -> PeftAdapter:
    """The adapter in an open weights file; raises as `read_adapter`, whose `path` this is."""
    if not file.tensors:
        raise FormatError("holds no tensor at all", where=file.path, hint="Save the adapter again.")
    if names := spread(file.tensors):
        raise FormatError(said_of_spread(names), where=file.path, hint=GATHER)
    config_path = file.path.parent / CONFIG_NAME
    config = read_config(config_path) if is_there(config_path) else None
    if not is_adapter(file.tensors):
        raise UnsupportedError(_what_else(file.tensors), where=file.path, hint="Name a TinyLoRA adapter saved by PEFT.")
    file = file.comparing() if isinstance(file, SafetensorsFile) else file
    return sort_keys(path, renamed(file, plain_keys(file.tensors)), config)


def _weights_of(directory: Path) -> Path:
    found = find_adapter(directory)
    for name in WEIGHTS_NAMES:
        if found and (found / name).is_file():
            return found / name
    raise FormatError(
        "no adapter here: neither " + " nor ".join(WEIGHTS_NAMES),
        where=found or directory,
        hint="Name the directory that PEFT's save_pretrained wrote.",
    )


def _what_else(tensors: Mapping[str, TensorInfo]) -> str:
    if any(".lora_A" in name or ".lora_embedding_A" in name for name in tensors):
        return "a LoRA adapter, not a TinyLoRA adapter"
    return f"none of its {len(tensors)} tensors is a TinyLoRA adapter's"


def sort_keys(path: Path, file: TensorFile, config: TinyLoraConfig | None) -> PeftAdapter:
    """An adapter from its tensors and its configuration; raises as `read_adapter`."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    vectors: dict[int, TensorInfo] = {}
    replaced: dict[str, Replacement] = {}
    leaked: dict[str, dict[str, tuple[str, ...]]] = {}
    copies, unknown = [], []
    for name, info in file.tensors.items():
        if len(name) > LONGEST:
            raise FormatError(f"a tensor's name has {len(name)} characters", where=file.path, hint="Save it again.")
        if match := FACTOR.fullmatch(name):
            module, part, adapter = match.group("module", "part", "adapter")
            if adapter is None:
                parts.setdefault(module, {})[part] = info
            else:
                of_module = leaked.setdefault(adapter, {})
                of_module[module] = (*of_module.get(module, ()), name)
        elif match := VECTOR.fullmatch(name):
            vectors[int(match["group"])] = info
        elif match := REPLACED.fullmatch(name):
            parameter = match["parameter"]
            owner, _, last = parameter.rpartition(".base_layer.")
            if owner:
                replaced[f"{owner}.{last}"] = Replacement(info, in_place=True)
            elif COPY.search(parameter):
                copies.append(name)
            else:
                replaced[parameter] = Replacement(info, in_place=not _is_saved_whole(parameter, config))
        else:
            unknown.append(name)
    modules = {module: _tensors_of(file.path, module, found) for module, found in sorted(parts.items())}
    return PeftAdapter(
        path=path,
        file=file,
        config=_told_by_tensors(modules, vectors) if config is None else config,
        has_config=config is not None,
        modules=modules,
        vectors=dict(sorted(vectors.items())),
        replaced=replaced,
        copies=tuple(copies),
        leaked=leaked,
        unknown=tuple(unknown),
    )


def _is_saved_whole(parameter: str, config: TinyLoraConfig | None) -> bool:
    """Whether a parameter, by its name in the model, is one of modules_to_save, rather than a bias."""
    if config is None or config.bias != "all" or not parameter.endswith(".bias"):
        return True
    parts = parameter.split(".")[:-1]
    owners = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    return any(owner.endswith(tuple(config.modules_to_save)) for owner in owners)


def _told_by_tensors(modules: Mapping[str, ModuleTensors], vectors: Mapping[int, TensorInfo]) -> TinyLoraConfig:
    """What the tensors say of r, u, the tying and P; seeds and releases they don't tell."""
    u = next((info.shape[0] for info in vectors.values() if len(info.shape) == 1 and info.shape[0]), 1)
    return TinyLoraConfig(
        r=max((parts.rank for parts in modules.values()), default=1),
        u=u,
        weight_tying=max(0.0, 1.0 - len(vectors) / len(modules)) if modules else 0.0,
        save_projection=bool(modules) and all(parts.P is not None for parts in modules.values()),
    )


def _tensors_of(path: Path, module: str, parts: Mapping[str, TensorInfo]) -> ModuleTensors:
    missing = [f"tinylora_{part}" for part in "AB" if part not in parts]
    if missing:
        raise FormatError(f"{module}: {' and '.join(missing)} missing", where=path, hint="Save the adapter again.")
    A, B, P = parts["A"], parts["B"], parts.get("P")
    if len(A.shape) != 2 or len(B.shape) != 2 or A.shape[0] != B.shape[1] or A.shape[0] < 1:
        raise FormatError(
            f"{module}: A is {A.shape} and B is {B.shape}, expected (r, in) and (out, r)",
            where=path,
            hint="Save the adapter again.",
        )
    r = A.shape[0]
    if P is not None and (len(P.shape) != 3 or P.shape[1:] != (r, r)):
        raise FormatError(
            f"{module}: P is {P.shape} but A says r={r}, expected (u, {r}, {r})",
            where=path,
            hint="Save the adapter again.",
        )
    return ModuleTensors(A, B, P)
