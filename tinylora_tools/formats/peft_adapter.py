"""PEFT's TinyLoRA dialect: which key of `adapter_model.safetensors` is what.

=====================================================  ================  ==============================================
key                                                    shape             what
=====================================================  ================  ==============================================
``base_model.model.<module>.tinylora_A``               (r', in)          sqrt(S) Vh; r' = min(r, out, in)
``base_model.model.<module>.tinylora_B``               (out, r')         U sqrt(S)
``base_model.model.<module>.tinylora_P``               (u, r', r')       only with save_projection
``base_model.tinylora_v.<group>``                      (u,)              the trained vector of a group
``base_model.model.<module>.base_layer.<parameter>``   the base's        replaces the base's parameter
``base_model.model.<parameter>``                       the base's        modules_to_save, and other biases
``base_model.model.<module>.modules_to_save.<...>``                      the same once more, by bias="all"
``base_model.model.<module>.original_module.<...>``                      the base's own, unused, by bias="all"
``base_model.model.<module>.tinylora_{A,B,P}.<name>``                    another adapter's, leaked by PEFT 0.19
=====================================================  ================  ==============================================

Source: peft/tuners/tinylora/model.py, `_get_adapter_state_dict`, and peft/utils/save_and_load.py, of PEFT 0.19.1,
0.20.0 and 0.21.2. Whether the parts fit each other and a base is for the callers to judge: this module only sorts keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, UnsupportedError
from .checkpoint import read_tensor_file
from .peft_config import CONFIG_NAME, TinyLoraConfig, read_config
from .tensors import TensorFile, TensorInfo

WEIGHTS_NAMES = ("adapter_model.safetensors", "adapter_model.bin")

#: Characters of a key: far more than a module's path has, and few enough for every number in it.
_LONGEST = 1000

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.tinylora_(?P<part>[ABP])(?:\.(?P<adapter>.+))?")
_VECTOR = re.compile(r"base_model\.tinylora_v\.(?P<group>0|[1-9][0-9]*)")
_COPY = re.compile(r"\.(modules_to_save|original_module)\.")
_REPLACED = re.compile(r"base_model\.model\.(?P<parameter>.+)")


@dataclass(frozen=True, slots=True)
class Factors:
    """One targeted module's tensors; P is None where the adapter leaves it to the seed."""

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
    """An adapter's file, its keys sorted by what they are.

    Attributes
    ----------
    path : Path
        What was named: the directory or the file.
    file : TensorFile
    config : TinyLoraConfig, optional
        None when no adapter_config.json stands beside the file.
    modules : Mapping[str, Factors]
        Targeted modules by their name in the model, in the file's order (which is no module order).
    vectors : Mapping[int, TensorInfo]
        Group to its v.
    replaced : Mapping[str, Replacement]
        By the parameter's name in the model.
    copies : tuple of str
        Keys by which bias="all" saves what `replaced` has once more, or the base's own, unused.
    leaked : Mapping[str, Mapping[str, tuple[str, ...]]]
        Other adapters that PEFT 0.19 saved along: adapter name to its modules, and the keys of each.
    foreign : tuple of str
        Keys that no PEFT release writes.
    """

    path: Path
    file: TensorFile
    config: TinyLoraConfig | None
    modules: Mapping[str, Factors]
    vectors: Mapping[int, TensorInfo]
    replaced: Mapping[str, Replacement]
    copies: tuple[str, ...]
    leaked: Mapping[str, Mapping[str, tuple[str, ...]]]
    foreign: tuple[str, ...]

    @property
    def directory(self) -> Path:
        return self.file.path.parent

    @property
    def has_projections(self) -> bool:
        return all(factors.P is not None for factors in self.modules.values())


def factor_key(module: str, part: str) -> str:
    """The key of a module's "A", "B" or "P"."""
    return f"base_model.model.{module}.tinylora_{part}"


def vector_key(group: int) -> str:
    """The key of a group's v."""
    return f"base_model.tinylora_v.{group}"


def base_key(module: str, parameter: str, *, wrapped: bool) -> str:
    """The key of a parameter of the base that the adapter brings whole; `wrapped` says that its module is targeted."""
    return ".".join(
        ("base_model.model", *([module] if module else []), *(["base_layer"] if wrapped else []), parameter)
    )


def is_adapter(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a file's names are those of a TinyLoRA adapter."""
    return any(_FACTOR.fullmatch(name) or _VECTOR.fullmatch(name) for name in tensors)


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
    """Read an adapter's header and configuration from its directory, or from its weights file.

    Raises
    ------
    FormatError
        For a missing or damaged file, a module without A or B, or shapes that can't be factors.
    UnsupportedError
        For an adapter that isn't TinyLoRA.
    """
    weights = _weights_of(path) if path.is_dir() else path
    config_path = weights.parent / CONFIG_NAME
    config = read_config(config_path) if config_path.is_file() else None
    file = read_tensor_file(weights)
    if not is_adapter(file.tensors):
        raise UnsupportedError(_what_else(file.tensors), where=weights, hint="Name a TinyLoRA adapter saved by PEFT.")
    return _sort_keys(path, file, config)


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


def _sort_keys(path: Path, file: TensorFile, config: TinyLoraConfig | None) -> PeftAdapter:
    parts: dict[str, dict[str, TensorInfo]] = {}
    vectors: dict[int, TensorInfo] = {}
    replaced: dict[str, Replacement] = {}
    leaked: dict[str, dict[str, tuple[str, ...]]] = {}
    copies, foreign = [], []
    for name, info in file.tensors.items():
        if len(name) > _LONGEST:
            raise FormatError(f"a tensor's name has {len(name)} characters", where=file.path, hint="Save it again.")
        if match := _FACTOR.fullmatch(name):
            module, part, adapter = match.group("module", "part", "adapter")
            if adapter is None:
                parts.setdefault(module, {})[part] = info
            else:
                of_module = leaked.setdefault(adapter, {})
                of_module[module] = (*of_module.get(module, ()), name)
        elif match := _VECTOR.fullmatch(name):
            vectors[int(match["group"])] = info
        elif match := _REPLACED.fullmatch(name):
            parameter = match["parameter"]
            owner, _, last = parameter.rpartition(".base_layer.")
            if owner:
                replaced[f"{owner}.{last}"] = Replacement(info, in_place=True)
            elif _COPY.search(parameter):
                copies.append(name)
            else:
                replaced[parameter] = Replacement(info, in_place=not _is_saved_whole(parameter, config))
        else:
            foreign.append(name)
    modules = {module: _factors(file.path, module, found) for module, found in sorted(parts.items())}
    return PeftAdapter(
        path=path,
        file=file,
        config=config,
        modules=modules,
        vectors=dict(sorted(vectors.items())),
        replaced=replaced,
        copies=tuple(copies),
        leaked=leaked,
        foreign=tuple(foreign),
    )


def _is_saved_whole(parameter: str, config: TinyLoraConfig | None) -> bool:
    """Whether a parameter, by its name in the model, is one of modules_to_save, rather than a bias."""
    if config is None or config.bias != "all" or not parameter.endswith(".bias"):
        return True
    parts = parameter.split(".")[:-1]
    owners = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    return any(owner.endswith(tuple(config.modules_to_save)) for owner in owners)


def _factors(path: Path, module: str, parts: Mapping[str, TensorInfo]) -> Factors:
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
    return Factors(A, B, P)
