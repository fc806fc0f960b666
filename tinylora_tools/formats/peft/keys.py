"""PEFT's TinyLoRA dialect: which key of `adapter_model.safetensors` is what.

=====================================================  ================  ==============================================
key                                                    shape             what
=====================================================  ================  ==============================================
``base_model.model.<module>.tinylora_A``               (r', in)          sqrt(S) Vh; r' = min(r, out, in)
``base_model.model.<module>.tinylora_B``               (out, r')         U sqrt(S)
``base_model.model.<module>.tinylora_P``               (u, r', r')       only with save_projection
``base_model.tinylora_v.<group>``                      (u,)              the trained vector of a group
``base_model.model.<module>.base_layer.<parameter>``   the base's        replaces the base's parameter
``base_model.model.<parameter>``                       the base's        modules_to_save, and other biases
``base_model.model.<module>.modules_to_save.<...>``                      the same once more, by bias="all"
``base_model.model.<module>.original_module.<...>``                      the base's own, unused, by bias="all"
``base_model.model.<module>.tinylora_{A,B,P}.<name>``                    another adapter's, leaked by PEFT 0.19
=====================================================  ================  ==============================================

Source: peft/tuners/tinylora/model.py, `_get_adapter_state_dict`, and peft/utils/save_and_load.py, of PEFT 0.19.1,
0.20.0 and 0.21.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..plain_names import plain_names

#: Characters of a key: far more than a module's path has, and few enough for every number in it.
LONGEST = 1000

FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.tinylora_(?P<part>[ABP])(?:\.(?P<adapter>.+))?")
VECTOR = re.compile(r"base_model\.tinylora_v\.(?P<group>0|[1-9][0-9]*)")
COPY = re.compile(r"\.(modules_to_save|original_module)\.")
#: What the keys of the model's parameters begin with.
ROOT = "base_model.model."
#: The key of a vector whose group is called as the adapter is.
NAMED_LIKE_THE_ADAPTER = "base_model.tinylora_v"

_WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
REPLACED = re.compile(r"base_model\.model\.(?P<parameter>.+)")


def factor_key(module: str, part: str) -> str:
    """The key of a module's "A", "B" or "P"."""
    return f"base_model.model.{module}.tinylora_{part}"


def vector_key(group: int) -> str:
    """The key of a group's v."""
    return f"base_model.tinylora_v.{group}"


def base_key(module: str, parameter: str, *, wrapped: bool) -> str:
    """The key of a parameter of the base that the adapter brings whole; `wrapped` says that its module is targeted."""
    return ".".join(
        ("base_model.model", *([module] if module else []), *(["base_layer"] if wrapped else []), parameter)
    )


def again_keys(saved: str, bias: str) -> list[str]:
    """The keys under which PEFT saves a bias of a module that is trained whole once more, the base's and the trained
    one: bias="all" takes every bias that it meets, and leaves the adapter's name in the keys of inner ones."""
    inner = bias.removeprefix(f"{saved}.")
    trained = inner if inner == "bias" else f"default.{inner}"
    return [
        base_key(saved, f"{copy}.{end}", wrapped=False)
        for copy, end in (("original_module", inner), ("modules_to_save", trained))
    ]


def is_adapter(names: Iterable[str]) -> bool:
    """Whether a file's names are those of a TinyLoRA adapter."""
    plain = (_WRAPPED.sub("", name) for name in names)
    return any(FACTOR.fullmatch(name) or VECTOR.fullmatch(name) for name in plain)


def plain_keys(names: Iterable[str]) -> dict[str, str]:
    """Keys of an adapter's file that aren't called as they should be, to what they are.

    Those of a wrapped model; and the vector of the group whose number is the adapter's own name, such as "0", which
    PEFT takes out of the key.
    """
    names = list(names)
    found = plain_names(names, ROOT)
    called = {found.get(name, name): name for name in names}
    if NAMED_LIKE_THE_ADAPTER in called:
        groups = {int(match["group"]) for name in called if (match := VECTOR.fullmatch(name))}
        missing = next(group for group in range(len(groups) + 1) if group not in groups)
        found[called[NAMED_LIKE_THE_ADAPTER]] = vector_key(missing)
    return found
