"""An adapter with all that its files, its base and the user say about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bases import architecture as architectures
from ..bases.architecture import Architecture
from ..errors import FormatError, MismatchError, UndeterminedError
from ..formats.checkpoint import read_model_config
from ..formats.peft_adapter import PeftAdapter, read_adapter
from ..sources.locate import HUB_PREFIX, locate_base
from .numbering import Numbering, number_modules
from .provenance import Provenance, provenance


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter's header and what could be learnt of its modules. No factor has been read yet."""

    adapter: PeftAdapter
    architecture: Architecture | None
    provenance: Provenance
    numbering: Numbering


def load_adapter(
    path: Path, *, base_config: Mapping[str, Any] | None = None, module_order: Sequence[str] | None = None
) -> LoadedAdapter:
    """Read an adapter and number its modules, by the architecture that the base's config.json names; without one, by
    that of the base that the adapter names."""
    adapter = read_adapter(path)
    architecture = _architecture_of(adapter, base_config)
    found = provenance(adapter)
    numbering = number_modules(adapter, found, architecture=architecture, module_order=module_order)
    return LoadedAdapter(adapter, architecture, found, numbering)


def config_of_base(base: Path | None) -> Mapping[str, Any] | None:
    """The config.json of a base that the user names; None where none is named.

    Raises
    ------
    FormatError
        If there is no config.json.
    """
    if base is None:
        return None
    config = read_model_config(base if base.is_dir() else base.parent)
    if config is None:
        raise FormatError(
            "no config.json here, which would tell the architecture", where=base, hint="Name the base's directory."
        )
    return config


def named_base(adapter: PeftAdapter, beside: Path | None = None) -> Path | None:
    """The base that the adapter's configuration names, where it is at hand; `beside` is the adapter's own directory,
    where that isn't the file's."""
    config = adapter.config
    if config is None or not config.base_model:
        return None
    return locate_base(config.base_model, config.revision, beside or adapter.directory)


def find_base(base: Path | None, adapters: Sequence[Path]) -> Path:
    """The base's directory: as given, else as the adapters' configurations agree."""
    if base is not None:
        if not base.is_dir():
            raise FormatError("no directory", where=base, hint="Name the directory that holds the base's config.json.")
        return base
    found: dict[Path, str] = {}
    for path in adapters:
        adapter = read_adapter(path)
        name = adapter.config.base_model if adapter.config else None
        directory = named_base(adapter)
        if directory is None:
            what = f"names {name!r} as its base, which isn't at hand" if name else "doesn't name its base"
            hint = "Give the base's directory with --base DIR"
            if name and name.count("/") == 1:
                hint += f", or download it with --base {HUB_PREFIX}{name}"
            raise UndeterminedError(what, where=adapter.path, hint=f"{hint}.")
        found.setdefault(directory.resolve(), str(directory))
    if len(found) > 1:
        raise MismatchError(
            f"the adapters name different bases: {', '.join(found.values())}",
            hint="Say with --base which one to merge into.",
        )
    return Path(next(iter(found.values())))


def _architecture_of(adapter: PeftAdapter, base_config: Mapping[str, Any] | None) -> Architecture | None:
    if base_config is None and (path := named_base(adapter)) is not None:
        base_config = read_model_config(path)
    if base_config is not None and (found := architectures.from_config(base_config)):
        return found
    if adapter.config is not None and adapter.config.base_class:
        return architectures.from_class_name(adapter.config.base_class)
    return None


def problems(adapter: PeftAdapter) -> list[str]:
    """What in the adapter's tensors contradicts its configuration, or itself."""
    found = [f"{key}: no PEFT release writes this key" for key in adapter.foreign]
    if not adapter.modules:
        found.append("no module has factors")
    if not adapter.vectors:
        found.append("no trained vector (tinylora_v) is in the file")
    sizes = {info.shape for info in adapter.vectors.values()}
    u = adapter.config.proj_dim if adapter.config else next((s[0] for s in sizes if len(s) == 1), None)
    said_by = "adapter_config.json says" if adapter.config else "the vectors say"
    found += [
        f"tinylora_v.{group}: shape {info.shape}, expected ({u},): {said_by} u={u}"
        for group, info in adapter.vectors.items()
        if info.shape != (u,)
    ]
    for module, factors in adapter.modules.items():
        if factors.P is not None and factors.P.shape[0] != u:
            found.append(f"{module}: P is {factors.P.shape}, but {said_by} u={u}")
        if adapter.config is not None:
            rank = min(adapter.config.rank, factors.in_features, factors.out_features)
            if factors.rank != rank:
                found.append(
                    f"{module}: A has rank {factors.rank}, but adapter_config.json says r={adapter.config.rank}"
                    f" and the weight is ({factors.out_features}, {factors.in_features}): expected {rank}"
                )
    if adapter.config is not None and len(adapter.vectors) > len(adapter.modules):
        found.append(f"{len(adapter.vectors)} trained vectors for {len(adapter.modules)} modules")
    return found


def unsaved_bias(adapter: PeftAdapter) -> list[str]:
    """A warning where biases were trained but the file lacks them: PEFT saves them from 0.21 on only."""
    config = adapter.config
    version = config.peft_version if config else None
    if config is None or config.bias == "none" or version is None or not re.match(r"0\.(19|20)(\D|$)", version):
        return []
    if any(name.endswith(".bias") and replacement.in_place for name, replacement in adapter.replaced.items()):
        return []
    return [
        f"{adapter.path.name}: trained with bias={config.bias!r}, but no bias was saved (PEFT {version} doesn't): "
        "what was learnt there is lost"
    ]
