"""TinyLoraConfig's fields as they are typed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fixture_data import ROOT

BASE = ROOT / "bases" / "qwen2-bf16"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", BASE, "--target-modules", "(q_proj"], "no regular expression"),
        (["count", BASE, "--layers-to-transform", "one"], "expected layer numbers"),
        (["init", BASE, "-o", "OUT", "--task-type", "poetry"], "is not one of"),
    ],
    ids=str,
)
def test_values_that_cannot_be_parsed_are_wrong_usage(
    complaint: Callable[..., str], arguments: list[object], said: str
) -> None:
    assert said in complaint(2, *arguments)
