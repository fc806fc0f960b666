"""Adapters for a verb that writes them anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixture_data import fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.errors import MismatchError, OutputError
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.ops.opened import opened_for


def test_they_are_sound_and_in_memory(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    (one, other), inputs = opened_for(tmp_path / "o", [case.adapter, case.adapter], case.base, force=False)
    assert isinstance(one.header.file, MemoryFile)
    assert {case.adapter, case.base} <= set(inputs)
    module = next(iter(one.modules))
    assert np.array_equal(one.delta(module), other.delta(module))


def test_an_unsound_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(fixture("peft021-layers").adapter / path.name)
    save_file({**state, "surprise": np.zeros(2, np.float32)}, path)
    with pytest.raises(MismatchError, match="surprise: no PEFT release writes this key"):
        opened_for(tmp_path.parent / "o", path, fixture("peft021-layers").base, force=False)


def test_an_output_that_may_not_be_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    for output in (case.adapter, case.base / "inside"):
        with pytest.raises(OutputError):
            opened_for(output, case.adapter, case.base, force=True, stream="no stream, which would be an error")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.tex").touch()
    with pytest.raises(OutputError, match="no model's directory"):
        opened_for(tmp_path / "o", case.adapter, case.base, force=True)
