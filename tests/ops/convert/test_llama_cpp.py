"""What llama.cpp takes, told without the gguf package as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fixture_data import fixture

from tinylora_tools.ops.convert.lora import to_lora

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["peft021-embedding", "peft021-lm-head", "peft021-13-numbers", "peft020-gpt2"])
def test_the_same_is_told_without_the_package(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = fixture(name)
    told = to_lora(case.adapter, tmp_path / "a", base=case.base).warnings
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert to_lora(case.adapter, tmp_path / "b", base=case.base).warnings == told
    assert bool([one for one in told if "llama.cpp" in one]) == (name in ("peft021-embedding", "peft020-gpt2"))
