"""`tinylora push`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fixture_data import fixture
from hub_uploads import Inbox

CASE = fixture("peft021-layers")

Run = Callable[..., Any]


def test_a_screen_says_what_and_where(tinylora: Run, inbox: Inbox) -> None:
    result = tinylora("push", CASE.adapter, "you/name")
    assert result.code == 0, result
    words = " ".join(result.out.split())
    assert words.startswith(f"Pushed {CASE.adapter} to {inbox.address}/you/name/commit/{'c' * 40} ")
    assert f"{len(inbox.files)} files, " in words
    assert words.endswith("the card, README.md, was made of it")


@pytest.mark.parametrize("line", [["x"], ["x", "a b"], ["x", "owner"]])
def test_wrong_usage(tinylora: Run, line: list[str]) -> None:
    assert tinylora("push", *line).code == 2


def test_what_is_on_the_hub_is_not_pushed(tinylora: Run, inbox: Inbox) -> None:
    result = tinylora("push", "hf://you/other", "you/name")
    assert (result.code, "is on the Hub, and not on this machine" in result.err) == (1, True), result
    assert inbox.commits == []
