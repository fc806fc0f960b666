"""One class of transformers, built on the meta device, and all that is to be known of it.

Everything is read off the model itself: kinds and order from named_modules(), ties from which parameters are one,
stored names from what transformers' own conversion makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...bases.architectures.layout import Layout, filled, generalised
from ...bases.architectures.renaming import Renaming
from .build import build, kind_of
from .scales import Scale, entries, forward_of
from .taken import taken_in, whole_where
from .tie_states import ties_of
from .tree import written

Description = dict[str, Any]

#: So many renamings that no pattern tells are listed one by one: more are those of layers, of any number.
_FEW = 8


def describe(model_class: Any, configs: Sequence[Any], older: Description | None = None) -> Description:
    """What the data hold of a class. Entries that would be empty are left out.

    Parameters
    ----------
    model_class : type
        Of transformers' PreTrainedModel.
    configs : sequence of PretrainedConfig
        In each of the shapes that count, the default first.
    older : dict, optional
        What an older release says of the class, whose names checkpoints still have.

    Raises
    ------
    UndeterminedError
        If its modules can't be written as one tree.
    """
    ties, flags = ties_of(model_class, configs[0])
    found = {**structure(model_class, configs, older), "ties": ties, "flags": flags}
    return {key: value for key, value in found.items() if value}


def structure(model_class: Any, configs: Sequence[Any], older: Description | None = None) -> Description:
    """A class's description but for its ties, which take many models to see."""
    models = [build(model_class, config) for config in configs]
    modules: list[dict[str, str]] = []
    scales: dict[str, list[Scale | None]] = {}
    stored: dict[str, str] = {}
    fused: set[str] = set()
    whole = _whole_where(models, configs)
    taken = {generalised(name) for model in models for name in taken_in(model)}
    taken.update(pattern for pattern, groups in whole.items() if not groups)
    for model in models:
        modules.append({})
        for name, module in model.named_modules():
            if (kind := kind_of(module)) is not None:
                plain, scale = forward_of(module, kind, model.config)
                alone = (plain or scale) and generalised(name) not in taken
                modules[-1][name] = kind if alone else kind.lower()
                if kind == "E":
                    scales.setdefault(generalised(name), []).append(scale)
        renamed, lost = stored_names(model)
        stored |= renamed
        fused |= lost
    first = models[0]
    found = {
        "modules": written(modules),
        "prefix": model_class.base_model_prefix,
        "input": _name_of(first, _input(first)),
        "output": _name_of(first, first.get_output_embeddings()),
        "stored": shortened(stored),
        "older": shortened({**stored, **_loaded_from(first, older, stored)}) if older else {},
        "fused": sorted(fused - stored.keys()),
        "scales": {name: _settled(found, configs[0]) for name, found in scales.items() if any(found)},
        "whole_where": {name: groups for name, groups in whole.items() if name not in taken and {} not in groups},
        "float32": sorted(getattr(first, "_keep_in_fp32_modules", None) or ()),
        "float32_always": sorted(getattr(first, "_keep_in_fp32_modules_strict", None) or ()),
    }
    if found["older"] == found["stored"]:
        del found["older"]
    return found


def _whole_where(models: Sequence[Any], configs: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    """Patterns of modules that are taken with other entries in config.json, to groups of entries with the defaults that
    keep them from it: one group suffices, for each layer in each shape whose configuration has it."""
    default = dict(entries(configs[0].to_dict()))
    cases: dict[str, list[tuple[dict[str, Any], list[set[str]]]]] = {}
    for model, config in zip(models, configs, strict=True):
        settings = config.to_dict()
        values = dict(entries(settings))
        for name, groups in whole_where(model, settings).items():
            cases.setdefault(generalised(name), []).append((values, [{*group} for group in groups]))

    def is_default(group: Iterable[str], values: Mapping[str, Any]) -> bool:
        return all(path in default and path in values and values[path] == default[path] for path in group)

    def suffices(group: set[str], its: list[tuple[dict[str, Any], list[set[str]]]]) -> bool:
        return all(any(one <= group for one in groups) for values, groups in its if is_default(group, values))

    found: dict[str, list[dict[str, Any]]] = {}
    for pattern, its in cases.items():
        known = {tuple(sorted(one)): one for values, groups in its for one in groups if is_default(one, values)}
        found[pattern] = [{p: default[p] for p in path} for path, one in known.items() if suffices(one, its)]
    return found


def _loaded_from(model: Any, older: Description, stored: Mapping[str, str]) -> dict[str, str]:
    """Parameters' patterns to the names that an older release stored them under, as this one's from_pretrained finds
    them there."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    found = {}
    transforms = get_model_conversion_mapping(model)
    for pattern in Layout(older.get("modules", "")).letters:
        name = Renaming(older.get("stored", {})).stored(f"{pattern}.weight".replace("*", "0"))
        key = name
        for transform in transforms:
            key, _ = transform.rename_source_key(key)
        if generalised(key) in stored and generalised(key).count("*") == generalised(name).count("*"):
            found[generalised(key)] = generalised(name)
    return found


def _settled(found: Sequence[Scale | None], config: Any) -> Scale:
    """One scale for all shapes; with the flag of the configuration that it hangs on, where not all have it."""
    scale = next(one for one in found if one is not None)
    if all(one == scale for one in found):
        return scale
    flag, default = next((p, v) for p, v in entries(config.to_dict()) if p.endswith("scale_embedding"))
    return {**scale, "if": flag, "default": default}


def _input(model: Any) -> Any:
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None


def _name_of(model: Any, module: Any) -> str | None:
    """The name of an embedding in the model; None if it is none that TinyLoRA could target."""
    if module is None or kind_of(module) is None:
        return None
    return next((name for name, one in model.named_modules() if one is module), None)


def stored_names(model: Any) -> tuple[dict[str, str], set[str]]:
    """Each parameter's pattern to that of the tensor which save_pretrained makes of it, and the parameters that no
    single tensor holds as it is, or that no pattern tells."""
    parameters = dict(model.named_parameters())
    saved = {id(value): name for name, value in _as_saved(model, parameters).items()}
    by_pattern: dict[str, dict[str, str]] = {}
    lost = set()
    for name, value in parameters.items():
        if id(value) in saved:
            by_pattern.setdefault(generalised(name), {})[name] = saved[id(value)]
        else:
            lost.add(generalised(name))
    found: dict[str, str] = {}
    for pattern, names in by_pattern.items():
        to = generalised(next(iter(names.values())))
        if to.count("*") == pattern.count("*") and all(filled(to, name) == key for name, key in names.items()):
            found[pattern] = to
        elif len(names) <= _FEW:
            found |= names
        else:
            lost.add(pattern)
    return found, lost - found.keys()


def _as_saved(model: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return _as_saved_by_4(model, parameters)
    reverted: dict[str, Any] = revert_weight_conversion(model, dict(parameters))
    return reverted


def _as_saved_by_4(model: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 4 renames by the class's own patterns, read backwards, in models for text and images."""
    from transformers import modeling_utils

    renaming = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    kinds = getattr(modeling_utils, "VLMS", ())
    if not any(kind in type(model).__name__.lower() for kind in kinds):
        renaming = {}
    return {_renamed_by_4(name, renaming): value for name, value in parameters.items()}


def _renamed_by_4(name: str, renaming: Mapping[str, str]) -> str:
    for stored, inside in renaming.items():
        plain = re.sub(r"\(.*\)", "", stored.lstrip("^"))
        renamed, times = re.subn(inside, plain, name)
        if times:
            return renamed
    return name


def shortened(stored: Mapping[str, str]) -> dict[str, str]:
    """Renamings of all parameters as few beginnings of names: the longest that fits a parameter says what it becomes;
    where none does, it keeps its name."""
    return dict(_rules((), [(name.split("."), key.split(".")) for name, key in stored.items()]))


def _rules(beginning: tuple[str, ...], pairs: list[tuple[list[str], list[str]]]) -> Iterator[tuple[str, str]]:
    depth = len(beginning)
    ends = [len(key) - (len(name) - depth) for name, key in pairs]
    to = {
        tuple(key[:end]) if end >= 0 and key[end:] == name[depth:] else None
        for (name, key), end in zip(pairs, ends, strict=True)
    }
    if len(to) == 1 and None not in to:
        becomes = to.pop()
        if becomes != beginning:
            yield ".".join(beginning), ".".join(becomes or ())
        return
    below: dict[str, list[tuple[list[str], list[str]]]] = {}
    for name, key in pairs:
        below.setdefault(name[depth], []).append((name, key))
    for part, inside in below.items():
        yield from _rules((*beginning, part), inside)
