"""What is said of a third-party adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_data import fixture

from tinylora_tools.adapters.answers import Answers
from tinylora_tools.adapters.source import find_source
from tinylora_tools.errors import UnsupportedError


def test_what_is_needless_is_the_first_that_was_given() -> None:
    assert Answers().needless is None
    assert Answers({"rank": "2"}, Path("P"), Path("merged")).needless == "settings"
    assert Answers(projection=Path("P"), against=Path("merged")).needless == "projection"
    assert Answers(against=Path("merged")).needless == "against"


def test_files_are_inputs_that_an_output_is_kept_apart_from() -> None:
    assert Answers({"rank": "2"}).files == []
    assert Answers(projection=Path("P"), against=Path("merged")).files == [Path("P"), Path("merged")]


def test_an_adapter_of_peft_s_has_no_use_for_them() -> None:
    with pytest.raises(UnsupportedError, match="is peft: settings is for other projects' adapters"):
        find_source(fixture("peft021-layers").adapter, settings={"rank": "2"})
