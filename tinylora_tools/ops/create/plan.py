"""What PEFT would save for a new adapter of a base: its tensors' names, dtypes and shapes, and its configuration.

Source: peft/tuners/tinylora/model.py and peft/utils/save_and_load.py of PEFT 0.21.2. `init` writes these tensors,
`count` only counts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...bases import architecture as architectures
from ...bases.factoring_notes import reduced_ranks
from ...bases.modules import ModelModules, Module, model_modules, require_order
from ...bases.selection import Selection, Targets, saved_modules, select
from ...bases.tensor_names import refuse_packed, refuse_quantized
from ...core.tying import group_of
from ...errors import FormatError, UndeterminedError
from ...formats.checkpoint import Checkpoint
from ...formats.peft_adapter import base_key, factor_key, vector_key
from ...formats.safetensors_file import build_header
from ...formats.tensors import DTYPE_BITS, TensorInfo

#: The release whose files, names and rules these are.
PEFT_VERSION = "0.21.2"

#: Dtype that a factor of a weight is stored in: PEFT widens 16-bit ones.
_STORED = {"BF16": "F32", "F16": "F32", "F32": "F32", "F64": "F64"}

#: Embeddings that PEFT saves whole when they are targeted by exactly these names.
_SAVED_EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True, slots=True)
class Settings:
    """TinyLoraConfig's fields with its defaults; `rank` and `proj_dim` are its `r` and `u`."""

    targets: Targets = field(default_factory=Targets)
    rank: int = 2
    proj_dim: int = 64
    weight_tying: float = 0.0
    projection_seed: int = 42
    save_projection: bool = True
    init_v_bound: float = 0.02
    dropout: float = 0.0
    fan_in_fan_out: bool | None = None
    bias: Literal["none", "all", "tinylora_only"] = "none"
    init_weights: bool | Literal["uniform"] = True

    def check(self, modules: int = 1) -> None:
        """Raise FormatError for a value that PEFT refuses, or a seed that its generator can't take."""
        if self.rank < 1 or self.proj_dim < 1:
            raise FormatError(f"r={self.rank} and u={self.proj_dim}, expected positive integers")
        if not 0.0 <= self.weight_tying <= 1.0:
            raise FormatError(f"weight_tying is {self.weight_tying}, expected a number from 0 to 1")
        if not 0.0 <= self.dropout <= 1.0:
            raise FormatError(f"tinylora_dropout is {self.dropout}, expected a number from 0 to 1")
        if self.targets.layers_pattern and not self.targets.layers_to_transform:
            raise FormatError("layers_pattern is given without layers_to_transform", hint="Give both, or neither.")
        if self.init_v_bound < 0.0 and self.init_weights == "uniform":
            raise FormatError(f"init_v_bound is {self.init_v_bound}, expected 0 or more")
        if self.projection_seed < -(2**63) or self.projection_seed + modules > 2**64:
            raise FormatError(
                f"projection_seed is {self.projection_seed}: it, or a seed counted from it, is out of torch's range"
            )


@dataclass(frozen=True, slots=True)
class NewTensor:
    """One tensor of the file: `part` is "A", "B", "P", "v", "bias", "embedding" or "saved"; `source` is the base's
    tensor that it copies, or the targeted module's name, or None for v."""

    key: str
    part: str
    dtype: str
    shape: tuple[int, ...]
    module: Module | None = None
    source: TensorInfo | None = None

    @property
    def parameters(self) -> int:
        return TensorInfo(self.key, self.dtype, self.shape, 0, 0).parameters

    @property
    def nbytes(self) -> int:
        return self.parameters * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Plan:
    """A new adapter before any number of it is known.

    `group` gives each targeted module's group; modules stand in PEFT's order. `tensors` are in the file's order.
    """

    base: Checkpoint
    model: ModelModules
    selection: Selection
    settings: Settings
    group: dict[str, int]
    tensors: tuple[NewTensor, ...]
    warnings: tuple[str, ...]

    @property
    def groups(self) -> int:
        return max(self.group.values()) + 1

    def file_bytes(self, *, projection: bool) -> int:
        """Bytes of the safetensors file that PEFT writes, with or without P."""
        kept = [t for t in self.tensors if projection or t.part != "P"]
        header, _ = build_header([(t.key, t.dtype, t.shape) for t in kept], {"format": "pt"})
        return len(header) + sum(t.nbytes for t in kept)


def open_model(
    base: Checkpoint,
    *,
    task_type: str | None = None,
    release: str | None = None,
    module_order: Iterable[str] | None = None,
    numbered: bool = True,
) -> ModelModules:
    """The model that a base is loaded into; `numbered` asks for its modules' order.

    Raises
    ------
    UnsupportedError
        If the base is quantized.
    UndeterminedError
        If the order isn't known and has to be.
    """
    refuse_quantized(base)
    architecture = architectures.from_config(base.config) if base.config else None
    if architecture is not None and task_type is not None:
        architecture = architectures.for_task(architecture, task_type) or architecture
    order = None if module_order is None else list(module_order)
    try:
        model = model_modules(base, architecture, release=release, module_order=order)
    except UndeterminedError:
        if numbered:
            raise
        model = model_modules(base, None)
    if numbered:
        require_order(model, base)
    return model


def plan_adapter(base: Checkpoint, model: ModelModules, settings: Settings) -> Plan:
    """The tensors that PEFT's save_pretrained writes right after get_peft_model.

    Raises
    ------
    TinyLoraError
        For settings that PEFT refuses, targets that match nothing or something that can't be adapted, and packed
        weights.
    """
    settings.check()
    selection = select(model, settings.targets, base.path)
    modules = selection.modules
    settings.check(len(modules))
    for module in modules:
        refuse_packed(base, module.tensor.name)
    group = {m.name: group_of(i, len(modules), settings.weight_tying) for i, m in enumerate(modules)}
    tensors = [*_own_tensors(modules, settings, group), *_copies(model, selection, settings, base)]
    tensors.sort(key=lambda t: (-DTYPE_BITS[t.dtype], t.key))  # as safetensors orders what PEFT hands it
    return Plan(base, model, selection, settings, group, tuple(tensors), tuple(_warnings(model, selection, settings)))


def _own_tensors(modules: tuple[Module, ...], settings: Settings, group: dict[str, int]) -> list[NewTensor]:
    tensors = []
    dtype_of: dict[int, str] = {}
    for module in modules:
        r, dtype = module.rank(settings.rank), _STORED[module.tensor.dtype]
        dtype_of.setdefault(group[module.name], dtype)
        shapes = {"A": (r, module.in_features), "B": (module.out_features, r), "P": (settings.proj_dim, r, r)}
        for part, shape in shapes.items():
            if part != "P" or settings.save_projection:
                tensors.append(NewTensor(factor_key(module.name, part), part, dtype, shape, module=module))
    tensors += [NewTensor(vector_key(g), "v", dtype, (settings.proj_dim,)) for g, dtype in dtype_of.items()]
    return tensors


def _copies(model: ModelModules, selection: Selection, settings: Settings, base: Checkpoint) -> list[NewTensor]:
    """Biases, embeddings and modules_to_save, which the file holds whole."""
    targeted = {module.name for module in selection.modules}
    whole = saved_modules(model, settings.targets)

    def copy(parameter: str, part: str) -> NewTensor:
        owner, _, last = parameter.rpartition(".")
        info = base.info(model.parameters[parameter])
        return NewTensor(base_key(owner, last, wrapped=owner in targeted), part, info.dtype, info.shape, source=info)

    found: dict[str, NewTensor] = {}
    for parameter in model.parameters:
        owner, _, last = parameter.rpartition(".")
        if owner in whole or any(owner.startswith(f"{name}.") for name in whole):
            found[parameter] = copy(parameter, "saved")
        elif last == "bias" and (settings.bias == "all" or (settings.bias == "tinylora_only" and owner in targeted)):
            found[parameter] = copy(parameter, "bias")
        elif last == "weight" and owner in targeted and _is_saved_embedding(owner, model, selection):
            found[parameter] = copy(parameter, "embedding")
    return list(found.values())


def _is_saved_embedding(name: str, model: ModelModules, selection: Selection) -> bool:
    """Whether PEFT's save_embedding_layers="auto" saves a targeted embedding whole."""
    wanted = selection.target_modules
    if isinstance(wanted, str):
        named = [n for n in model.modules if n.rpartition(".")[2] in _SAVED_EMBEDDINGS]
        chosen = any(re.fullmatch(wanted, n) for n in named)
    else:
        chosen = any(n in wanted for n in _SAVED_EMBEDDINGS)
    return chosen and name in (model.input, model.output)


def _warnings(model: ModelModules, selection: Selection, settings: Settings) -> list[str]:
    found = reduced_ranks(selection.modules, settings.rank)
    missing = [end for end in settings.targets.modules_to_save if not any(n.endswith(end) for n in _all_names(model))]
    found += [f"modules_to_save: no module is called {name}" for name in missing]
    if (head := missing_head(model, settings.targets)) is not None:
        found.append(f"{head}: what it adds isn't counted")
    if not settings.save_projection:
        found.append(
            "P won't be in the file: PEFT draws it from projection_seed, with values that differ between machines"
        )
    if settings.init_weights is False:
        found.append("init_weights=false leaves v uninitialised in PEFT; zeros are written here")
    conv = [m for m in selection.modules if m.kind == "Conv1D"]
    if settings.fan_in_fan_out is not None and settings.fan_in_fan_out != bool(conv):
        found.append(f"fan_in_fan_out is set to {str(bool(conv)).lower()}, by the type of the targeted layers")
    return found


def missing_head(model: ModelModules, targets: Targets) -> str | None:
    """What to say where the base lacks the head that an adapter of its task saves whole."""
    if not targets.heads or any(name.endswith(targets.heads) for name in _all_names(model)):
        return None
    return f"the base has no {' or '.join(targets.heads)}, the head that a {targets.task_type} adapter trains and holds"


def _all_names(model: ModelModules) -> set[str]:
    return model.inner_names() | model.modules.keys()


def config_json(settings: Settings, selection: Selection, base_model: str | None) -> dict[str, Any]:
    """adapter_config.json as PEFT 0.21.2 writes it, lists sorted."""
    targets, wanted = settings.targets, selection.target_modules
    layers = list(targets.layers_to_transform)
    pattern = list(targets.layers_pattern)
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": settings.bias,
        "fan_in_fan_out": any(m.kind == "Conv1D" for m in selection.modules),
        "inference_mode": True,
        "init_v_bound": settings.init_v_bound,
        "init_weights": settings.init_weights,
        "layers_pattern": pattern or None,
        "layers_to_transform": layers or None,
        "modules_to_save": list(targets.saved) or None,
        "peft_type": "TINYLORA",
        "peft_version": PEFT_VERSION,
        "projection_seed": settings.projection_seed,
        "r": settings.rank,
        "revision": None,
        "save_projection": settings.save_projection,
        "target_modules": wanted if isinstance(wanted, str) else sorted(wanted),
        "task_type": targets.task_type,
        "tinylora_dropout": settings.dropout,
        "u": settings.proj_dim,
        "weight_tying": settings.weight_tying,
    }


def base_name(path: Path) -> str:
    """What base_model_name_or_path says of a local base: its path from here on, or in full."""
    resolved = path.resolve()
    try:
        return str(resolved.relative_to(Path.cwd()))
    except ValueError:
        return str(resolved)
