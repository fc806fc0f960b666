"""Which parameters of a class are one, for every way in which config.json may say so.

`tie_word_embeddings` may be true, false or absent, and stand at the top or in the configuration of the text model, and
which of these counts, and what absence means, differs from class to class and from release to release. So the model is
built from each.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from ...bases.architectures.ties import FLAG, STATES
from .build import build


def text_path(config: Any) -> str:
    """Where a configuration has that of its text model: "" for itself, or a path such as "text_config"."""
    try:
        text = config.get_text_config(decoder=True)
    except (AttributeError, ValueError):
        return ""
    return _path_to(config, text) or ""


def _path_to(config: Any, wanted: Any) -> str | None:
    if config is wanted:
        return ""
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None:
            found = _path_to(inner, wanted)
            if found is not None:
                return f"{name}.{found}".rstrip(".")
    return None


def ties_of(model_class: Any, config: Any) -> list[dict[str, Any]]:
    """Groups of parameters that are one tensor in some state, larger ones first.

    Returns
    -------
    list of dict
        `members`; `stored`, the name that save_pretrained keeps; `tied`, a letter a state, "T" or "F": of the flag
        absent, true and false, and where the text model has a configuration of its own, nine: of each at the top,
        absent, true and false there.
    """
    path = text_path(config)
    states = list(_states(path))
    everything_tied = _built(model_class, config, path, True, True if path else None) or build(model_class, config)
    groups = _names(everything_tied)
    if not groups:
        return []
    models = (_built(model_class, config, path, *state) for state in states)
    together = [[] if model is None else _names(model) for model in models]
    every = {frozenset(members): members for groups in [*together, groups] for members in groups}
    found = []
    for members in sorted(every.values(), key=lambda members: -len(members)):
        tied = "".join("T" if any({*group} >= {*members} for group in groups) else "F" for groups in together)
        found.append({"members": members, "stored": _kept(everything_tied, members), "tied": tied})
    return found


def tied_unasked(model_class: Any, config: Any) -> list[list[str]]:
    """Groups of parameters that are one tensor where the configuration doesn't say."""
    return _names(build(model_class, _with(config, text_path(config), None, None)))


def _built(model_class: Any, config: Any, path: str, top: bool | None, text: bool | None) -> Any:
    """The model in a state; None where its configuration refuses that."""
    try:
        return build(model_class, _with(config, path, top, text))
    except Exception:
        return None


def _states(path: str) -> Iterator[tuple[bool | None, bool | None]]:
    for top in STATES:
        for text in STATES if path else (None,):
            yield top, text


def _with(config: Any, path: str, top: bool | None, text: bool | None) -> Any:
    """The configuration as a config.json with these entries gives it."""
    settings = copy.deepcopy(config.to_dict())
    _set(settings, top)
    inner = settings
    for part in path.split(".") if path else ():
        inner = inner[part]
    if path:
        _set(inner, text)
    found = type(config).from_dict(settings)
    found.architectures = config.architectures
    return found


def _set(settings: dict[str, Any], value: bool | None) -> None:
    settings.pop(FLAG, None)
    if value is not None:
        settings[FLAG] = value


def _names(model: Any) -> list[list[str]]:
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    return [members for members in by_parameter.values() if len(members) > 1]


def _kept(model: Any, members: list[str]) -> str:
    tied = getattr(model, "all_tied_weights_keys", None)
    if tied is not None:
        return next((name for name in members if name not in tied), members[0])
    patterns = [*(model._tied_weights_keys or ())]
    return next((name for name in members if not any(re.search(p, name) for p in patterns)), members[0])
