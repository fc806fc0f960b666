"""What a merge dequantizes of its base, and what becomes of the base's quantization settings.

A weight that changes is written as plain numbers. transformers and vLLM have to be told so: they read the names of
modules that aren't quantized from the settings, and vLLM joins weights that read the same input (q, k and v; gate and
up; a layer's experts) into one, which it only takes if all of them are quantized or none is. So what may be joined with
a changed weight is dequantized too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ...bases.quantization import method_of, settings_of, unread, way_out
from ...bases.scaled_weight import ScaledWeight
from ...errors import UnsupportedError
from ...formats.checkpoint import Checkpoint
from ...wording import argument
from .words import Outcome, Settled, Source

#: Where settings name the modules that aren't quantized: of the first two, transformers prefers the one and vLLM the
#: other; the last is compressed-tensors'.
_SKIPPED = ("modules_to_not_convert", "ignored_layers", "ignore")


def has_fixed_dtypes(base: Checkpoint) -> bool:
    """Whether some of a quantized base's weights can't be given another dtype."""
    return bool(settings_of(base.config)[0] and unread(base))


def refuse_other_dtype(base: Checkpoint, dtype: str) -> None:
    """Raise UnsupportedError for a base that `has_fixed_dtypes`."""
    if has_fixed_dtypes(base):
        key = unread(base)[0]
        raise UnsupportedError(
            f"{argument('dtype', dtype)} is for all tensors, and {key} is stored as {base.info(key).dtype}: "
            f"the base is quantized ({method_of(base.config)})",
            where=base.path,
            hint=f"Leave {argument('dtype')} out: what the adapter targets keeps its dtype, the rest its bytes. Else: "
            + way_out(base),
        )


def dequantize(base: Checkpoint, settled: Settled, config: Mapping[str, Any], *, everything: bool) -> dict[str, Any]:
    """Add what is dequantized besides the weights that change to `settled`, and the tensors that go with it; returns
    the entries of config.json that change.

    Parameters
    ----------
    base : Checkpoint
    settled : Settled
    config : Mapping
        The entries of config.json that change for other reasons.
    everything : bool
        Or else what may be joined with a weight that changes.
    """
    scaled = {name: source for name, source in base.held.items() if isinstance(source, ScaledWeight)}
    changed = {_company(name, scaled[name]) for name in settled.outcomes.keys() & scaled.keys()}
    plain = {name for name, source in scaled.items() if everything or _company(name, source) in changed}
    for name in plain - settled.outcomes.keys():
        settled.outcomes[name] = Outcome(Source(scaled[name], base.info(name)))
    settled.dropped.update(companion for name in plain for companion in scaled[name].companions)
    if plain and plain == scaled.keys() and not unread(base):
        return {**config, **_without_settings(base, config)}
    return {**config, **_with_skipped(base, config, plain, settled.added, scaled.keys())}


def _company(name: str, weight: ScaledWeight) -> tuple[str, int]:
    """What weights have in common that a server may join: the experts of a layer, or else the module that they are in,
    and the size of their input."""
    block, experts, _ = name.partition(".experts.")
    if experts:
        return f"{block}.experts", 0
    return name.rpartition(".")[0].rpartition(".")[0], weight.stored.shape[-1]


def _without_settings(base: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's entry without the settings: nothing is quantized any more."""
    path, _ = settings_of(base.config)
    return _replaced({**(base.config or {}), **config}, path, None) if path else {}


def _with_skipped(
    base: Checkpoint, config: Mapping[str, Any], plain: Collection[str], added: Iterable[str], scaled: Collection[str]
) -> dict[str, Any]:
    """The settings with the names of what is plain now."""
    path, settings = settings_of(base.config)
    if not path:
        return {}
    whole = "config_groups" not in settings  # compressed-tensors names each expert, the others a layer's together
    new = [_skipped(name, whole=whole) for name in (*(key for key in base.shard_of if key in plain), *added)]
    lists = {key: settings[key] for key in _SKIPPED if isinstance(settings.get(key), list)}
    if not lists and plain and whole:
        # Without a list transformers leaves the output embedding alone, with one only what is in it.
        others = [key for key in base.shard_of if key not in scaled and key.endswith(".weight")]
        before = [_skipped(key, whole=whole) for key in others if len(base.info(key).shape) > 1]
        lists, new = {"modules_to_not_convert": []}, ["lm_head", *before, *new]
    elif not lists and plain:
        lists = {"ignore": []}
    if not lists or not new:
        return {}
    changed = {key: list(dict.fromkeys([*names, *new])) for key, names in lists.items()}
    return _replaced({**(base.config or {}), **config}, path, {**settings, **changed})


def _skipped(name: str, *, whole: bool) -> str:
    """The module that is left out, for a tensor: for an expert's all of the layer's, if they are named as a whole."""
    block, experts, _ = name.partition(".experts.")
    return f"{block}.experts" if experts and whole else name.rpartition(".")[0]


def _replaced(config: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The entry of config.json with the value at the end of the path replaced; None takes it away."""
    first, *rest = path
    if not rest:
        return {first: value}
    inner = {**config[first], rest[0]: value}
    return {first: {key: entry for key, entry in inner.items() if entry is not None or key != rest[0]}}
