"""What was mistyped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("insepct", "inspect"),
        ("verify", "verify-base or verify-output or verify-seed"),
        ("convert loar", "lora"),
        ("MERGE", "merge"),
        ("verify_base", "verify-base"),
        ("xyzzy", None),
        ("", None),
    ],
)
def test_what_may_have_been_meant(tinylora: Run, typed: str, meant: str | None) -> None:
    result = tinylora(*(typed.split() or [""]))
    assert result.code == 2
    said = f"No such command '{(typed.split() or [''])[-1]}'."
    assert f"{said} Did you mean {meant}?" in result.err if meant else f"{said}\n" in result.err


def test_options_too(tinylora: Run) -> None:
    assert "--verify-base" in tinylora("merge", "x", "--vrify-base").err
