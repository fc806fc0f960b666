"""Merged in a process of its own: the same adapter, whatever form it came in, and errors as they are here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import edit
from fixture_data import fixture

from tinylora_tools import load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.errors import TinyLoraError
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.merge.writing.digest import merged_digest
from tinylora_tools.ops.verify.worker import merged_elsewhere


def test_a_packed_adapter_and_its_stream_get_there(tmp_path: Path) -> None:
    """The P that aren't stored are drawn there, as they are here, and another stream's are others."""
    case = fixture("peft020-seed-only")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    base = open_base(case.base)
    found = {}
    for stream in ("torch-cpu-avx2", "torch-cpu-scalar"):
        adapter = load_adapter(tmp_path / "p.safetensors", base, stream=stream)
        found[stream] = merged_elsewhere(adapter, base, threads=2, environment={})
        assert found[stream] == merged_digest(adapter, base, threads=1)
    assert found["torch-cpu-avx2"] == merged_digest(load_adapter(case.adapter, base), base, threads=1)


def test_an_order_gets_there_without_a_configuration(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    base = open_base(case.base)
    shutil.copy(case.adapter / "adapter_model.safetensors", tmp_path / "adapter.safetensors")
    order = [row["name"] for row in case.modules]
    one, two = (f"base_model.model.{name}.tinylora_P" for name in order[:2])

    def swap(tensors: dict[str, Any]) -> None:  # the stored P confirm the order
        tensors[one], tensors[two] = tensors[two], tensors[one]

    edit(tmp_path / "adapter.safetensors", swap)
    adapter = load_adapter(tmp_path / "adapter.safetensors", base, [order[1], order[0], *order[2:]])
    found = merged_elsewhere(adapter, base, threads=1, environment={})
    assert found == merged_digest(adapter, base, threads=1)
    assert found != merged_digest(load_adapter(case.adapter, base, order), base, threads=1)


def test_what_can_t_be_merged_is_told_in_one_line(copied: Callable[[str], tuple[Path, Path]]) -> None:
    directory, path = copied("peft021-scalar")
    target = "model.layers.1.self_attn.v_proj.weight"
    edit(path / "model.safetensors", lambda tensors: tensors[target].__setitem__((0, 0), np.nan))
    base = open_base(path)
    with pytest.raises(TinyLoraError) as caught:
        merged_elsewhere(load_adapter(directory, base), base, threads=1, environment={})
    assert str(caught.value) == f"the merge failed: {target}: rows 0 to 15: the base's weights hold NaN or Inf"


def test_settings_get_there() -> None:
    """Python itself doesn't start with this one."""
    case = fixture("peft021-layers")
    base = open_base(case.base)
    with pytest.raises(TinyLoraError, match="the merge failed: "):
        merged_elsewhere(load_adapter(case.adapter, base), base, threads=1, environment={"PYTHONHOME": "/nowhere"})


def test_groups_that_another_adapter_s_tensors_tell_get_there() -> None:
    """PEFT 0.19 numbered a second adapter's groups as the first's, which only what leaked into its file shows."""
    case = fixture("peft019-two")
    base = open_base(case.base)
    adapter = load_adapter(case.adapter, base)
    assert merged_elsewhere(adapter, base, threads=1, environment={}) == merged_digest(adapter, base, threads=1)


def test_places_with_gaps_get_there() -> None:
    """As the first adapter's numbers leave them: P is another, and so are the bytes."""
    case = fixture("peft020-seed-only")
    base = open_base(case.base)
    names = [row["name"] for row in case.modules]
    adapter = load_adapter(case.adapter, base, first_adapter=["model.embed_tokens", *names])
    found = merged_elsewhere(adapter, base, threads=1, environment={})
    assert found == merged_digest(adapter, base, threads=1)
    assert found != merged_digest(load_adapter(case.adapter, base, names), base, threads=1)
