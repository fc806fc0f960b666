"""What PEFT would save for a new adapter of a base: its tensors' names, dtypes and shapes, and its configuration.

Source: peft/tuners/tinylora/model.py and peft/utils/save_and_load.py of PEFT 0.21.2. `init` writes these tensors,
`count` only counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...bases.base import Base
from ...bases.listing import HOW_TO_LIST, listed_model
from ...bases.modules import ModelModules, Module, open_model, reduced_ranks
from ...bases.quantization import is_packed, refuse_packed
from ...bases.scaled_weight import companions_of
from ...bases.selection import Selection, is_saved_embedding, saved_modules, select, select_plain
from ...bases.tensor_names import in_numbered_layer
from ...core.tying import group_of
from ...errors import MismatchError, UndeterminedError
from ...formats.checkpoint import Checkpoint
from ...formats.peft.config import TinyLoraConfig
from ...formats.peft.keys import again_keys, base_key, factor_key, vector_key
from ...formats.safetensors_file import build_header
from ...formats.tensors import DTYPE_BITS, FLOAT_NAMES, TensorInfo
from ...wording import argument

#: What PEFT widens 16-bit factors to.
_WIDENED = {"BF16": "F32", "F16": "F32"}


@dataclass(frozen=True, slots=True)
class NewTensor:
    """One tensor of the file: `part` is "A", "B", "P", "v", "bias", "embedding", "saved", or "again" for a saved bias's
    other copies; `source` is the base's tensor that it copies."""

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

    `config` has the target_modules that PEFT would write, `group` gives each targeted module's group; modules stand in
    PEFT's order, `tensors` in the file's. `said_fan_in_fan_out` is what was asked for.
    """

    base: Base
    model: ModelModules
    selection: Selection[Module]
    config: TinyLoraConfig
    group: dict[str, int]
    tensors: tuple[NewTensor, ...]
    warnings: tuple[str, ...]
    said_fan_in_fan_out: bool | None = None

    @property
    def groups(self) -> int:
        return max(self.group.values()) + 1

    def kept(self, *, projection: bool) -> list[NewTensor]:
        """The file's tensors, with P or without."""
        return [t for t in self.tensors if projection or t.part != "P"]

    def file_bytes(self, *, projection: bool) -> int:
        """Bytes of the safetensors file that PEFT writes, with or without P."""
        kept = self.kept(projection=projection)
        header, _ = build_header([(t.key, t.dtype, t.shape) for t in kept], {"format": "pt"})
        return len(header) + sum(t.nbytes for t in kept)


def model_for(
    base: Base, config: TinyLoraConfig, *, release: str | None, module_order: Sequence[str] | None
) -> ModelModules:
    """The model that an adapter is for, its modules numbered.

    Raises
    ------
    UndeterminedError
        If nothing tells their order.
    MismatchError
        If `module_order` is no order of them, or lacks a targeted one.
    """
    model = open_model(base, task_type=config.task_type, release=release, numbered=module_order is None)
    if module_order is None:
        return model
    listed = set(module_order)
    absent = next((m.name for m in select(model, config, base.path).modules if m.name not in listed), None)
    if absent is not None:
        raise MismatchError(
            f"{argument('module_order')} doesn't name {absent}, which is targeted",
            where=base.path,
            hint=f"List every targeted module, in the order of model.named_modules(): {HOW_TO_LIST}.",
        )
    return listed_model(model, module_order, base.path)


def plan_adapter(base: Base, model: ModelModules, config: TinyLoraConfig, adapter_dtype: str = "float32") -> Plan:
    """The tensors that PEFT's save_pretrained writes right after get_peft_model.

    Parameters
    ----------
    base : Base
    model : ModelModules
    config : TinyLoraConfig
    adapter_dtype : "float32", "auto", "bfloat16" or "float16"
        "float32" widens what 16-bit weights give, as PEFT does; "auto" keeps each weight's own dtype, as PEFT does with
        autocast_adapter_dtype=False.

    Raises
    ------
    TinyLoraError
        For settings that PEFT refuses, targets that match nothing or something that can't be adapted, packed weights,
        and a 16-bit dtype that the weights haven't got.
    """
    config.check()
    if model.architecture is None and config.fan_in_fan_out:
        model = _of_conv1d(model)
    selection = select_plain(base.checkpoint, model, config)
    modules = selection.modules
    config.check(len(modules))
    settled = replace(
        config,
        target_modules=selection.target_modules,
        fan_in_fan_out=any(m.kind == "Conv1D" for m in modules),
        base_model_name_or_path=config.base_model_name_or_path or base.name,
        revision=config.revision or (None if config.base_model_name_or_path else base.commit),
    )
    group = {m.name: group_of(i, len(modules), config.weight_tying) for i, m in enumerate(modules)}
    stored = {module.name: _stored(module, adapter_dtype, base.path) for module in modules}
    tensors = [*_own_tensors(modules, config, group, stored), *_copies(model, selection, config, base.checkpoint)]
    tensors.sort(key=lambda t: (-DTYPE_BITS[t.dtype], t.key))  # as safetensors orders what PEFT hands it
    notes = tuple(_warnings(model, selection, config))
    return Plan(base, model, selection, settled, group, tuple(tensors), notes, config.fan_in_fan_out)


def _of_conv1d(model: ModelModules) -> ModelModules:
    """The model with each matrix that would be taken for a Linear's as a Conv1D's, which is stored (in, out): what its
    user says, where no architecture does."""
    modules = {n: replace(m, kind="Conv1D") if m.kind == "Linear" else m for n, m in model.modules.items()}
    return replace(model, modules=modules)


def require_kinds(plan: Plan) -> None:
    """Raise UndeterminedError where nobody knows which kinds the targeted layers are of, and which way round they hold
    their weights."""
    if plan.model.architecture is not None:
        return
    doubtful = next((m.name for m in plan.selection.modules if not in_numbered_layer(m.name)), None)
    if doubtful is not None:
        raise UndeterminedError(
            f"{doubtful}: the architecture isn't known, and with it whether this is an embedding or a head, and "
            "whether its weight is tied to another",
            where=plan.base.path,
            hint=f"Name the layers to adapt with {argument('target_modules')} and leave it out, or make the adapter "
            "with PEFT under the transformers that knows the model.",
        )
    if plan.said_fan_in_fan_out is None:
        no, yes = argument("fan_in_fan_out", False), argument("fan_in_fan_out", True)
        raise UndeterminedError(
            "the architecture isn't known, and with it whether the targeted layers are Linear, which hold W (out, in), "
            "or Conv1D, which hold its transpose",
            where=plan.base.path,
            hint=f"Say {no} for Linear, as nearly all models have, or {yes} for Conv1D, as GPT-2 has.",
        )


def _stored(module: Module, adapter_dtype: str, where: Path) -> str:
    """The dtype that a module's factors are stored in, by its safetensors name."""
    own = module.dtype
    if adapter_dtype == "float32":
        return _WIDENED.get(own, own)
    if adapter_dtype != "auto" and FLOAT_NAMES[own] != adapter_dtype:
        raise MismatchError(
            f"{module.name}: its weight is {FLOAT_NAMES[own]}, so its factors would be rounded to {adapter_dtype}",
            where=where,
            hint=f"PEFT makes factors in float32, or, with autocast_adapter_dtype=False, in their weight's own dtype: "
            f"say {argument('adapter_dtype', 'auto')}.",
        )
    return own


def _own_tensors(
    modules: tuple[Module, ...], config: TinyLoraConfig, group: dict[str, int], stored: Mapping[str, str]
) -> list[NewTensor]:
    tensors = []
    dtype_of: dict[int, str] = {}
    for module in modules:
        r, dtype = module.rank(config.r), stored[module.name]
        dtype_of.setdefault(group[module.name], dtype)
        shapes = {"A": (r, module.in_features), "B": (module.out_features, r), "P": (config.u, r, r)}
        for part, shape in shapes.items():
            if part != "P" or config.save_projection:
                tensors.append(NewTensor(factor_key(module.name, part), part, dtype, shape, module=module))
    tensors += [NewTensor(vector_key(g), "v", dtype, (config.u,)) for g, dtype in dtype_of.items()]
    return tensors


def _copies(
    model: ModelModules, selection: Selection[Module], config: TinyLoraConfig, base: Checkpoint
) -> list[NewTensor]:
    """Biases, embeddings and modules_to_save, which the file holds whole."""
    targeted = {module.name for module in selection.modules}
    whole = saved_modules(model, config)
    scales = companions_of(base)

    def copy(parameter: str, part: str) -> NewTensor:
        owner, _, last = parameter.rpartition(".")
        info = base.info(model.parameters[parameter])
        if is_packed(info.dtype):
            refuse_packed(base, info.name)
        return NewTensor(base_key(owner, last, wrapped=owner in targeted), part, info.dtype, info.shape, source=info)

    found: list[NewTensor] = []
    for parameter in model.parameters:
        owner, _, last = parameter.rpartition(".")
        if model.parameters[parameter] in scales:
            continue
        saved = next((name for name in sorted(whole, key=len) if f"{owner}.".startswith(f"{name}.")), None)
        if saved is not None:
            found.append(copy(parameter, "saved"))
            if last == "bias" and config.bias == "all":
                found += [replace(found[-1], key=key, part="again") for key in again_keys(saved, parameter)]
        elif last == "bias" and (config.bias == "all" or (config.bias == "tinylora_only" and owner in targeted)):
            found.append(copy(parameter, "bias"))
        elif owner in targeted and is_saved_embedding(owner, model, selection.target_modules):
            found.append(copy(parameter, "embedding"))
    return found


def _warnings(model: ModelModules, selection: Selection[Module], config: TinyLoraConfig) -> list[str]:
    found = reduced_ranks(selection.modules, config.r)
    missing = [end for end in config.modules_to_save if not any(n.endswith(end) for n in _all_names(model))]
    found += [f"modules_to_save: no module is called {name}" for name in missing]
    if (head := missing_head(model, config)) is not None:
        found.append(f"{head}: what it adds isn't counted")
    if not config.save_projection:
        found.append(
            "P won't be in the file: PEFT draws it from projection_seed, with values that differ between machines"
        )
    if config.init_weights is False:
        found.append("init_weights=false leaves v uninitialised in PEFT; zeros are written here")
    conv = [m for m in selection.modules if m.kind == "Conv1D"]
    if config.fan_in_fan_out is not None and config.fan_in_fan_out != bool(conv):
        found.append(f"fan_in_fan_out is set to {str(bool(conv)).lower()}, by the type of the targeted layers")
    return found


def missing_head(model: ModelModules, config: TinyLoraConfig) -> str | None:
    """What to say where the base lacks the head that an adapter of its task saves whole."""
    if not config.heads or any(name.endswith(config.heads) for name in _all_names(model)):
        return None
    return f"the base has no {' or '.join(config.heads)}, the head that a {config.task_type} adapter trains and holds"


def _all_names(model: ModelModules) -> set[str]:
    return model.inner_names() | model.modules.keys()
