"""The modules of the model that a checkpoint is loaded into, from the checkpoint's headers and its architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import MismatchError, UndeterminedError
from ..formats.checkpoint import Checkpoint
from ..formats.tensors import FLOAT_NAMES, TensorInfo
from ..wording import argument
from .architectures.architecture import Architecture
from .architectures.described import Described
from .architectures.hints import order_hint, own_code
from .architectures.layout import KINDS, filled, generalised
from .architectures.named import for_task
from .base import Base
from .tensor_names import not_known

#: Last parts of names that are embeddings by convention, where no architecture tells.
_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "shared", "embed_in")


@dataclass(frozen=True, slots=True)
class Module:
    """A module with a weight matrix.

    `kind` is "Linear", "Conv1D" or "Embedding"; `tensor` holds the weight, in_features by out_features for a Conv1D and
    the other way round else; `widened` says whether transformers loads it in float32 though it is stored in 16 bits.
    """

    name: str
    kind: str
    tensor: TensorInfo
    widened: bool = False

    @property
    def dtype(self) -> str:
        """The dtype that the weight is loaded in, and PEFT works in, by its safetensors name."""
        return "F32" if self.widened else self.tensor.dtype

    @property
    def out_features(self) -> int:
        return self.tensor.shape[1 if self.kind == "Conv1D" else 0]

    @property
    def in_features(self) -> int:
        return self.tensor.shape[0 if self.kind == "Conv1D" else 1]

    def rank(self, r: int) -> int:
        """r, or as much of it as the weight has."""
        return min(r, *self.tensor.shape)


@dataclass(frozen=True, slots=True)
class ModelModules:
    """A model's modules and parameters, as far as its checkpoint holds them.

    Attributes
    ----------
    modules : Mapping[str, Module]
        In named_modules() order, where `ordered`.
    parameters : Mapping[str, str]
        Every parameter's name in the model to the tensor that holds it; tied ones come under each of their names.
    input, output : str, optional
        The input embedding; the output embedding, which "all-linear" leaves out.
    architecture : Architecture, optional
    ordered : bool
    fused : Mapping[str, str]
        Modules whose weights the checkpoint holds in one tensor with others', to their kinds.
    """

    modules: Mapping[str, Module]
    parameters: Mapping[str, str]
    input: str | None
    output: str | None
    architecture: Architecture | None
    ordered: bool
    fused: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_type(self) -> str | None:
        return self.architecture.model_type if self.architecture else None

    def inner_names(self) -> set[str]:
        """Names of modules that hold others, or parameters that are no weight matrix."""
        found: set[str] = set()
        for parameter in self.parameters:
            parts = parameter.split(".")[:-1]
            found.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return found - self.modules.keys()


def model_modules(
    base: Checkpoint,
    architecture: Architecture | None,
    *,
    release: str | None = None,
    module_order: Sequence[str] | None = None,
) -> ModelModules:
    """The modules of the architecture's class that have a tensor in the checkpoint.

    Parameters
    ----------
    base : Checkpoint
    architecture : Architecture, optional
        Without it, names in the checkpoint are taken for the model's, and every matrix for a Linear but those that are
        embeddings by name.
    release : str, optional
        The major release of transformers ("4" or "5") whose names count; by default the newest that is known.
    module_order : sequence of str, optional
        Module names in named_modules() order, which the architecture then need not tell.

    Raises
    ------
    UndeterminedError
        If the architecture's class isn't known.
    MismatchError
        If `module_order` names a module that the checkpoint lacks.
    """
    if architecture is None:
        return _by_name(base, module_order)
    here = architecture.described(release)
    elsewhere = architecture.elsewhere(here)
    parameters = {
        parameter: key
        for parameter, key in here.parameters_of(base.shard_of).items()
        if generalised(parameter.rpartition(".")[0]) not in elsewhere  # experts that this release fuses, say
        and not _past_the_last_layer(parameter, here, architecture.text, base.config or {})
    }
    for tie in architecture.ties.among(base.shard_of):
        present = [member for member in tie.members if member in parameters]
        if present and (tie.holds is not False or not tie.optional):
            key = parameters[tie.stored if tie.stored in parameters else present[0]]
            absent = (m for m in tie.members if here.has(m.rpartition(".")[0]))
            parameters |= {member: key for member in absent if member not in parameters}
    found = {}
    for parameter, key in parameters.items():
        name = parameter.removesuffix(".weight")
        if parameter.endswith(".weight") and here.has(name) and len(base.info(key).shape) == 2:
            info = base.info(key)
            widened = here.in_float32(parameter, FLOAT_NAMES.get(info.dtype, ""))
            found[name] = Module(name, KINDS[here.layout.letters[generalised(name)]], info, widened)
    order = list(module_order) if module_order is not None else sorted(found, key=here.layout.sort_key)
    modules = {name: found[name] for name in _checked(order, found, base)}
    fused = {name: kind for name, kind in _fused(here, parameters) if name not in found}
    return ModelModules(modules, parameters, here.input, here.output, architecture, ordered=True, fused=fused)


def _fused(here: Described, parameters: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Modules that the class has in layers of the checkpoint, and that no single tensor is stored for."""
    modules = {pattern.removesuffix(".weight") for pattern in here.fused if pattern.endswith(".weight")}
    heads = {pattern: pattern.rpartition("*")[0] for pattern in modules if here.has(pattern)}
    for parameter in parameters if heads else ():
        for pattern, head in heads.items():
            if generalised(parameter).startswith(head):
                yield filled(pattern, parameter), KINDS[here.layout.letters[pattern]]


def _past_the_last_layer(parameter: str, here: Described, text: str, config: Mapping[str, Any]) -> bool:
    """Whether a parameter is in a layer that from_pretrained doesn't load: DeepSeek-V3's for multi-token prediction
    comes after the num_hidden_layers of its text model, which stand beside its input embedding."""
    inner: Any = config
    for part in text.split(".") if text else ():
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    layers = inner.get("num_hidden_layers") if isinstance(inner, Mapping) else None
    beside = (here.input or f"{here.prefix}.").rpartition(".")[0]
    first, _, rest = parameter.removeprefix(f"{beside}." if beside else "").partition(".")
    number = rest.partition(".")[0]
    return first == "layers" and isinstance(layers, int) and number.isdigit() and int(number) >= layers


def is_embedding_by_name(module: str) -> bool:
    """Whether a module is called what embeddings are called: for where no architecture tells."""
    return module.rpartition(".")[2] in _EMBEDDINGS


def _by_name(base: Checkpoint, module_order: Sequence[str] | None) -> ModelModules:
    parameters = {key: key for key in base.shard_of}
    found = {}
    for key in parameters:
        info, name = base.info(key), key.removesuffix(".weight")
        if key.endswith(".weight") and len(info.shape) == 2:
            kind = "Embedding" if is_embedding_by_name(name) else "Linear"
            found[name] = Module(name, kind, info)
    order = _natural_order(found) if module_order is None else _checked(module_order, found, base)
    output = "lm_head" if "lm_head" in found else None
    return ModelModules({n: found[n] for n in order}, parameters, None, output, None, ordered=module_order is not None)


def _natural_order(names: Iterable[str]) -> list[str]:
    """By name, numbers by value: readable, but no module order."""
    return sorted(
        names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
    )


def _checked(order: Sequence[str], found: Mapping[str, Module], base: Checkpoint) -> Sequence[str]:
    absent = [name for name in order if name not in found]
    if absent:
        raise MismatchError(
            f"{argument('module_order')} names {absent[0]}, which has no weight matrix in the checkpoint",
            where=base.path,
            hint="Give names as model.named_modules() lists them.",
        )
    return order


def require_order(model: ModelModules, base: Checkpoint) -> None:
    """Raise UndeterminedError where modules can't be numbered."""
    if not model.ordered:
        raise UndeterminedError(
            f"{not_known(base.config or {})}, and with it the order of modules, which their seeds and groups follow",
            where=base.path,
            hint=order_hint(),
        )


def open_model(
    base: Base,
    *,
    task_type: str | None = None,
    release: str | None = None,
    module_order: Iterable[str] | None = None,
    numbered: bool = True,
) -> ModelModules:
    """The model that a base is loaded into, of the class for the task; `numbered` asks for its modules' order.

    Raises
    ------
    UndeterminedError
        If the order isn't known and has to be.
    """
    architecture = architecture_for(base, task_type)
    order = None if module_order is None else list(module_order)
    try:
        model = model_modules(base.checkpoint, architecture, release=release, module_order=order)
    except UndeterminedError:
        if numbered:
            raise
        model = model_modules(base.checkpoint, None)
    if numbered:
        require_order(model, base.checkpoint)
        if architecture is not None and architecture.doubtful and order is None:
            raise UndeterminedError(own_code(architecture.model_type), where=base.path, hint=order_hint())
    return model


def architecture_for(base: Base, task_type: str | None) -> Architecture | None:
    """The base's architecture with its class for one of PEFT's task types, where it has one."""
    found = base.architecture
    return found if found is None or task_type is None else for_task(found, task_type) or found


def undetermined_vectors(names: Sequence[str]) -> list[str]:
    """A note where weights don't determine their singular vectors."""
    if not names:
        return []
    return [
        f"{_and_more(names)}: singular values lie so close together (or to zero) that the weight doesn't determine "
        "their vectors. Keep the factors that an adapter was trained with: computed again elsewhere, they would differ"
    ]


def reduced_ranks(modules: Sequence[Module], rank: int) -> list[str]:
    """A note where weights are smaller than the rank that is asked for."""
    smaller = [module for module in modules if module.rank(rank) < rank]
    if not smaller:
        return []
    first = smaller[0]
    return [
        f"{_and_more([m.name for m in smaller])}: r={rank} is more than the {first.out_features} x {first.in_features} "
        f"weight has; reduced to {first.rank(rank)}, as PEFT does"
    ]


def _and_more(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
