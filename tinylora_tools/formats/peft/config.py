"""`adapter_config.json` of a PEFT TinyLoRA adapter: its fields, PEFT's defaults, what PEFT refuses, what it targets.

Source: peft/tuners/tinylora/config.py, and `check_target_module_exists` in peft/tuners/tuners_utils.py, of PEFT 0.19.1,
0.20.0 and 0.21.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ...errors import FormatError, UnsupportedError
from ..json_file import read_object
from .expressions import expression

CONFIG_NAME = "adapter_config.json"

#: The release whose files, names and rules are written.
PEFT_VERSION = "0.21.2"

#: PEFT's task types.
TASK_TYPES = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

BIASES = ("none", "all", "tinylora_only")

ALL_LINEAR = "all-linear"
#: A target that holds one of these is a regular expression.
_REGEX_CHARACTERS = frozenset("*+?()[]{}|^$\\")

#: Modules that PEFT's classes for a task train and save whole, whatever the configuration lists.
_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLoraConfig:
    """PEFT's TinyLoraConfig: the same fields, the same defaults. Lists may be given for tuples, one value for a list.

    Attributes
    ----------
    r, u : int
        The rank of the frozen factors, and the length of a trained vector.
    weight_tying : float
        From 0, a vector for each module, to 1, one for all.
    projection_seed : int
        P of the module at place i among those targeted is drawn from projection_seed + i.
    target_modules : str or tuple of str, optional
        "all-linear", a regular expression (another string), names or ends of names; None for PEFT's default of the
        model type.
    fan_in_fan_out : bool, optional
        None leaves it to the type of the targeted layers.
    raw : Mapping
        The JSON object that it was read from, if any.
    """

    r: int = 2
    u: int = 64
    weight_tying: float = 0.0
    projection_seed: int = 42
    save_projection: bool = True
    target_modules: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    bias: str = "none"
    task_type: str | None = None
    init_weights: bool | str = True
    init_v_bound: float = 0.02
    tinylora_dropout: float = 0.0
    fan_in_fan_out: bool | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    auto_mapping: Mapping[str, Any] | None = field(default=None, compare=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the class is frozen
        if isinstance(self.target_modules, (list, set)):
            set_field(self, "target_modules", tuple(self.target_modules))
        for name in ("modules_to_save", "layers_to_transform", "layers_pattern"):
            set_field(self, name, _several(getattr(self, name)))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: Path) -> Self:
        """The configuration in a JSON object that was read from `where`.

        Raises
        ------
        FormatError
            For a field of the wrong type or out of range.
        UnsupportedError
            For an adapter of another kind, by its name.
        """
        kind = raw.get("peft_type")
        if kind != "TINYLORA":
            raise UnsupportedError(
                f"peft_type is {kind!r}, expected 'TINYLORA'",
                where=where,
                hint="This tool reads TinyLoRA adapters; for other kinds use PEFT itself.",
            )
        given: dict[str, Any] = {}
        for name, (fits, expected) in _FIELDS.items():
            value = raw.get(name)
            if value is None and (name not in raw or name in _NULLABLE):
                continue
            if not fits(value):
                raise FormatError(f"{name} is {value!r}, expected {expected}", where=where)
            given[name] = value
        for name in given.keys() & {"r", "u"}:
            if given[name] < 1:
                raise FormatError(f"{name} is {given[name]!r}, expected a positive integer", where=where)
        return cls(**given, raw=raw)

    def to_json(self) -> dict[str, Any]:
        """adapter_config.json as PEFT 0.21.2 writes it, lists sorted."""
        wanted = self.target_modules
        return {
            "auto_mapping": self.auto_mapping,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": self.bias,
            "fan_in_fan_out": bool(self.fan_in_fan_out),
            "inference_mode": True,
            "init_v_bound": self.init_v_bound,
            "init_weights": self.init_weights,
            "layers_pattern": list(self.layers_pattern) or None,
            "layers_to_transform": list(self.layers_to_transform) or None,
            "modules_to_save": list(self.saved) or None,
            "peft_type": "TINYLORA",
            "peft_version": PEFT_VERSION,
            "projection_seed": self.projection_seed,
            "r": self.r,
            "revision": self.revision,
            "save_projection": self.save_projection,
            "target_modules": sorted(wanted) if isinstance(wanted, tuple) else wanted,
            "task_type": self.task_type,
            "tinylora_dropout": self.tinylora_dropout,
            "u": self.u,
            "weight_tying": self.weight_tying,
        }

    def check(self, modules: int = 1) -> None:
        """Raise FormatError for what PEFT refuses, or a seed that its generator can't take for so many modules."""
        for name, (fits, expected) in _FIELDS.items():
            value = getattr(self, name)
            if value is not None and not fits(list(value) if isinstance(value, tuple) else value):
                raise FormatError(f"{name} is {value!r}, expected {expected}")
        self.check_targets()
        if self.r < 1 or self.u < 1:
            raise FormatError(f"r={self.r} and u={self.u}, expected positive integers")
        if self.bias not in BIASES:
            raise FormatError(f"bias is {self.bias!r}, expected one of {', '.join(BIASES)}")
        if self.layers_pattern and not self.layers_to_transform:
            raise FormatError("layers_pattern is given without layers_to_transform", hint="Give both, or neither.")
        if self.init_weights not in (True, False, "uniform"):
            raise FormatError(f"init_weights is {self.init_weights!r}, expected true, false or 'uniform'")
        if self.init_v_bound < 0.0 and self.init_weights == "uniform":
            raise FormatError(f"init_v_bound is {self.init_v_bound}, expected 0 or more")
        if self.projection_seed < -(2**63) or self.projection_seed + modules > 2**64:
            raise FormatError(
                f"projection_seed is {self.projection_seed}: it, or a seed counted from it, is out of torch's range"
            )

    def check_targets(self) -> None:
        """Raise FormatError for targets that PEFT couldn't look for."""
        if self.task_type is not None and self.task_type not in TASK_TYPES:
            raise FormatError(f"task_type is {self.task_type!r}, expected one of {', '.join(TASK_TYPES)}")
        wanted = self.target_modules
        for name, patterns in (
            ("target_modules", (wanted,) if isinstance(wanted, str) and wanted != ALL_LINEAR else ()),
            ("modules_to_save", self.modules_to_save),  # PEFT puts them into expressions as they are
            ("layers_pattern", self.layers_pattern),
        ):
            for pattern in patterns:
                expression(pattern, name)

    @property
    def base_class(self) -> str | None:
        """The class of the model that was adapted, where the configuration names it."""
        name = self.auto_mapping.get("base_model_class") if self.auto_mapping else None
        return name if isinstance(name, str) else None

    @property
    def heads(self) -> tuple[str, ...]:
        """What PEFT adds to modules_to_save for the task: names of which the model has one."""
        return _HEADS.get(self.task_type or "", ())

    @property
    def saved(self) -> tuple[str, ...]:
        """modules_to_save, with those that PEFT adds for the task."""
        return tuple(dict.fromkeys((*self.modules_to_save, *self.heads)))

    def matches(self, name: str) -> bool:
        """Whether a module of this name is targeted by an expression, or by names: not for "all-linear" or None, which
        the model has to tell (`bases.selection`).

        Raises
        ------
        SlowExpressionError
            For an expression that takes too long.
        """
        if any(expression(rf"(^|.*\.){saved}($|\..*)").match(name) for saved in self.saved):
            return False
        wanted = self.target_modules or ()
        if isinstance(wanted, str):
            return expression(wanted).fullmatch(name) is not None
        if name in wanted:
            return True
        if not any(name.endswith(f".{end}") for end in wanted):
            return False
        return not self.layers_to_transform or self._layer_of(name) in self.layers_to_transform

    def _layer_of(self, name: str) -> int | None:
        """The number of the layer that a module is in: the first number in its name, or the first after a pattern."""
        patterns = [rf"(?:^|.*?\.){pattern}\.(?P<number>\d+)\." for pattern in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(?P<number>\d+)\."]:
            if match := expression(pattern).match(name):
                return int(match["number"])
        return None


def parse_targets(text: str) -> str | tuple[str, ...]:
    """target_modules as one text: "all-linear", a regular expression (it holds one of ``*+?()[]{}|^$\\``), or names
    with commas between them.

    Raises
    ------
    FormatError
        For what is neither.
    """
    if text.lower() == ALL_LINEAR:
        return ALL_LINEAR
    if _REGEX_CHARACTERS & set(text):
        expression(text)
        return text
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def read_config(path: Path) -> TinyLoraConfig:
    """Read `adapter_config.json`; raises as `TinyLoraConfig.from_json`, and FormatError for what is no JSON object."""
    return TinyLoraConfig.from_json(read_object(path), path)


Fits = Callable[[Any], bool]


def _several(value: Any) -> tuple[Any, ...]:
    """PEFT takes one value for a list of one, and None for none."""
    return () if value is None else tuple(value) if isinstance(value, Iterable) and type(value) is not str else (value,)


def _ratio(value: Any) -> bool:
    return type(value) in (int, float) and 0.0 <= value <= 1.0


def _is(*types: type) -> Fits:
    return lambda value: type(value) in types  # type, for a bool is an int


def _listed(kind: type, *, alone: bool = True) -> Fits:  # PEFT takes one for a list of one
    return lambda value: (
        (type(value) is list and all(type(one) is kind for one in value)) or (alone and type(value) is kind)
    )


#: Each field in JSON: what fits it, and how that is said.
_FIELDS: dict[str, tuple[Fits, str]] = {
    "r": (_is(int), "an integer"),
    "u": (_is(int), "an integer"),
    "weight_tying": (_ratio, "a number from 0 to 1"),
    "projection_seed": (_is(int), "an integer"),
    "save_projection": (_is(bool), "true or false"),
    "target_modules": (_listed(str), "a string or a list of strings"),
    "modules_to_save": (_listed(str, alone=False), "a list of strings"),
    "layers_to_transform": (_listed(int), "an integer or a list of integers"),
    "layers_pattern": (_listed(str), "a string or a list of strings"),
    "bias": (_is(str), "a string"),
    "task_type": (_is(str), "a string"),
    "init_weights": (_is(bool, str), "true, false or a string"),
    "init_v_bound": (lambda value: type(value) in (int, float) and abs(value) < 1e308, "a finite number"),
    "tinylora_dropout": (_ratio, "a number from 0 to 1"),
    "fan_in_fan_out": (_is(bool), "true or false"),
    "base_model_name_or_path": (_is(str), "a string"),
    "revision": (_is(str), "a string"),
    "peft_version": (_is(str), "a string"),
    "auto_mapping": (_is(dict), "an object"),
}

#: Fields for which PEFT takes null as their default.
_NULLABLE = frozenset(
    {
        "target_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias", "task_type",
        "base_model_name_or_path", "revision", "peft_version", "auto_mapping", "fan_in_fan_out",
    }
)  # fmt: skip
