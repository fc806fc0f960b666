"""`adapter_config.json` of a PEFT TinyLoRA adapter: the fields that matter, checked.

Source: peft/tuners/tinylora/config.py of PEFT 0.19.1, 0.20.0 and 0.21.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnsupportedError
from .json_file import read_object

CONFIG_NAME = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class TinyLoraConfig:
    """What an adapter's configuration says.

    `rank` and `proj_dim` are PEFT's `r` and `u`; `raw` is the JSON object.
    """

    rank: int
    proj_dim: int
    weight_tying: float
    projection_seed: int
    save_projection: bool
    peft_version: str | None = None
    base_model: str | None = None
    revision: str | None = None
    base_class: str | None = None
    task_type: str | None = None
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_config(path: Path) -> TinyLoraConfig:
    """Read and check `adapter_config.json`.

    Raises
    ------
    FormatError
        For a field of the wrong type or out of range.
    UnsupportedError
        For an adapter of another kind, by its name.
    """
    return parse_config(read_object(path), path)


def parse_config(raw: Mapping[str, Any], path: Path) -> TinyLoraConfig:
    """Check a configuration that was read from `path`; raises as `read_config`."""
    kind = raw.get("peft_type")
    if kind != "TINYLORA":
        raise UnsupportedError(
            f"peft_type is {kind!r}, expected 'TINYLORA'",
            where=path,
            hint="This tool reads TinyLoRA adapters; for other kinds use PEFT itself.",
        )
    reader = _Reader(path, raw)
    auto_mapping = raw.get("auto_mapping")
    base_class = auto_mapping.get("base_model_class") if isinstance(auto_mapping, dict) else None
    return TinyLoraConfig(
        rank=reader.positive("r", 2),
        proj_dim=reader.positive("u", 64),
        weight_tying=reader.ratio("weight_tying", 0.0),
        projection_seed=reader.integer("projection_seed", 42),
        save_projection=reader.flag("save_projection", True),
        peft_version=reader.text("peft_version"),
        base_model=reader.text("base_model_name_or_path"),
        revision=reader.text("revision"),
        base_class=base_class if isinstance(base_class, str) else None,
        task_type=reader.text("task_type"),
        bias=reader.text("bias") or "none",
        modules_to_save=reader.names("modules_to_save"),
        raw=raw,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    raw: Mapping[str, Any]

    def _bad(self, name: str, expected: str) -> FormatError:
        return FormatError(f"{name} is {self.raw[name]!r}, expected {expected}", where=self.path)

    def integer(self, name: str, default: int) -> int:
        value = self.raw.get(name, default)
        if type(value) is not int:
            raise self._bad(name, "an integer")
        return value

    def positive(self, name: str, default: int) -> int:
        value = self.integer(name, default)
        if value < 1:
            raise self._bad(name, "a positive integer")
        return value

    def ratio(self, name: str, default: float) -> float:
        value = self.raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
            raise self._bad(name, "a number from 0 to 1")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise self._bad(name, "a list of strings")
        return tuple(value or ())

    def text(self, name: str) -> str | None:
        value = self.raw.get(name)
        if value is not None and not isinstance(value, str):
            raise self._bad(name, "a string")
        return value
