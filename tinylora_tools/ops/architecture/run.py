"""`architecture`: what the installed transformers knows of a base's model, for one that the data lack.

The model is built on the meta device, without a weight, from the base's config.json. The answer is that release's:
so it is asked for, never taken on the way.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bases.architectures.architecture import Architecture
from ...bases.architectures.layout import KINDS, generalised
from ...bases.base import Base, open_base
from ...errors import FormatError, TinyLoraError, UndeterminedError, UnsupportedError
from ...output.staging import check_file, staged_file
from ...sources.locate import expanded
from ...wording import argument
from .classes import classes_of
from .describe import describe
from .tie_states import text_path


@dataclass(frozen=True, slots=True)
class ArchitectureReport:
    """All that `tinylora architecture` says.

    Attributes
    ----------
    base, model_type, class_name, transformers : str
        The base's path, and what was built, in which release.
    classes : list of str
        All that the file describes.
    modules : dict
        How many modules of the class are of each kind.
    ties : list of list of str
        Parameters that are one tensor by this config.json.
    scaled : dict
        Embeddings that multiply what they look up, by what.
    renamed : dict
        Beginnings of names in the model to what the checkpoint calls them.
    missing, unexpected : list of str
        Parameters whose tensors the checkpoint lacks, and tensors that are no parameter's.
    output : str, optional
        The file that was written.
    """

    base: str
    model_type: str
    class_name: str
    transformers: str
    classes: list[str]
    modules: dict[str, int]
    ties: list[list[str]]
    scaled: dict[str, float]
    renamed: dict[str, str]
    missing: list[str]
    unexpected: list[str]
    output: str | None
    warnings: list[str]


def architecture(
    base: str | Path | Base,
    output: str | Path | None = None,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
) -> ArchitectureReport:
    """Describe a base's model as the installed transformers has it: order and kinds of its modules, names in the
    checkpoint, ties, scales.

    Parameters
    ----------
    base : path
        With its config.json.
    output : path, optional
        A file for the description, for `described_by`.
    trust_remote_code : bool
        Whether code that the base brings along is run.
    force : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    UnsupportedError
        If transformers isn't installed, or knows no such model.
    OutputError
        If the output is there already.
    """
    at = open_base(base, afar=True)
    if at.config is None:
        raise FormatError("no config.json here, which would tell the model", where=at.path, hint="Name its directory.")
    target = None if output is None else expanded(output)
    if target is not None:
        check_file(target, force=force)
    with _quietly_offline():
        transformers = _transformers()
        config = _configuration(transformers, at, trust_remote_code)
        built = _classes(config, at, trust_remote_code)
        name = (getattr(config, "architectures", None) or [next(iter(built))])[0]
        if name not in built:
            raise UnsupportedError(
                f"transformers {transformers.__version__} has no class {name} for this configuration",
                where=at.path,
                hint=f"It has {', '.join(built)}. Does the model need a newer release, or the code that it brings "
                f"along ({argument('trust_remote_code', True)})?",
            )
        described = {one: _described(built[one], config, at) for one in dict.fromkeys([name, *built])}
    data = {
        "family": config.model_type,
        "releases": {
            transformers.__version__: {
                "bare": next(iter(built)),
                "text": text_path(config),
                "classes": {one: its for one, its in described.items() if its is not None},
            }
        },
    }
    if target is not None:
        with staged_file(target, force=force) as file:
            file.write_text(json.dumps(data, indent=1) + "\n")
    return _report(at, data, name, config, None if target is None else str(target))


def _transformers() -> Any:
    try:
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    except ImportError:
        raise UnsupportedError(
            "this needs transformers, which isn't installed", hint="pip install 'tinylora-tools[transformers]'"
        ) from None
    return transformers


@contextmanager
def _quietly_offline() -> Iterator[None]:
    """Nothing is fetched: what isn't in the base's directory isn't the base's."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _configuration(transformers: Any, base: Base, trust_remote_code: bool) -> Any:
    own = "auto_map" in (base.config or {})
    try:
        config = transformers.AutoConfig.from_pretrained(base.directory, trust_remote_code=trust_remote_code)
    except Exception as error:
        hint = "Install the release that the model was made with."
        if own and not trust_remote_code:
            hint = f"It brings code of its own along: {argument('trust_remote_code', True)} runs that, if you trust it."
        raise UnsupportedError(
            f"transformers {transformers.__version__} can't read its config.json ({_said(error)})",
            where=base.path,
            hint=hint,
        ) from None
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # layers of the same names, by other classes
    return config


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _classes(config: Any, base: Base, trust_remote_code: bool) -> dict[str, Any]:
    """Every class that the configuration may be loaded into, the bare one first."""
    auto_map: Mapping[str, Any] = getattr(config, "auto_map", None) or {}
    if not (trust_remote_code and auto_map):
        return classes_of(config.model_type, type(config))
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    names = {kind: name for kind, name in auto_map.items() if kind.startswith("AutoModel") and isinstance(name, str)}
    found = [get_class_from_dynamic_module(names[kind], base.directory) for kind in sorted(names)]
    return {one.__name__: one for one in found}


def _described(model_class: Any, config: Any, base: Base) -> dict[str, Any] | None:
    one = copy.deepcopy(config)
    one.architectures = [model_class.__name__]
    try:
        return describe(model_class, [one])
    except Exception as error:
        if model_class.__name__ != (getattr(config, "architectures", None) or [None])[0]:
            return None  # a head that this configuration isn't for
        if isinstance(error, TinyLoraError):
            raise UndeterminedError(f"{model_class.__name__}: {error.what}", where=base.path) from None
        raise UnsupportedError(
            f"{model_class.__name__} can't be built from this config.json ({_said(error)})",
            where=base.path,
            hint="Is the release of transformers that is installed the one that the model needs?",
        ) from error


def _report(base: Base, data: Mapping[str, Any], name: str, config: Any, output: str | None) -> ArchitectureReport:
    found = Architecture(data, name, base.config)
    here = found.described()
    model = _parameters(base)
    loaded = here.parameters_of(model)
    warnings = []
    unexpected = sorted(set(model) - set(loaded.values()))
    kinds: dict[str, int] = {}
    scaled: dict[str, float] = {}
    for parameter, key in loaded.items():
        module = parameter.removesuffix(".weight")
        letter = here.layout.letters.get(generalised(module))
        if parameter.endswith(".weight") and letter is not None:
            kinds[KINDS[letter]] = kinds.get(KINDS[letter], 0) + 1
            shape = base.checkpoint.info(key).shape
            scaling = found.scaling(module, shape[1]) if len(shape) == 2 else None
            if scaling is not None:
                scaled[module] = scaling.factor
    missing = _missing(here.layout.letters, loaded, found)
    if missing:
        warnings.append("the checkpoint has no tensor for some modules of the class: is it this model's?")
    return ArchitectureReport(
        base=base.source,
        model_type=found.model_type,
        class_name=name,
        transformers=found.transformers[0],
        classes=list(found.classes),
        modules=kinds,
        ties=[list(tie.members) for tie in found.ties.all if tie.holds and all(map(here.may_have, tie.members))],
        scaled=scaled,
        renamed=dict(data["releases"][found.transformers[0]]["classes"][name].get("stored", {})),
        missing=missing,
        unexpected=unexpected,
        output=output,
        warnings=warnings,
    )


def _parameters(base: Base) -> list[str]:
    try:
        return list(base.checkpoint.shard_of)
    except FormatError:
        return []  # a directory with a configuration alone


def _missing(letters: Mapping[str, str], loaded: Mapping[str, str], found: Architecture) -> list[str]:
    """Patterns of modules that no tensor is loaded into, but for those that are tied to others."""
    have = {generalised(parameter) for parameter in loaded}
    tied = {generalised(member) for tie in found.ties.all if tie.holds for member in tie.members}
    return [pattern for pattern in letters if f"{pattern}.weight" not in have | tied] if loaded else []
