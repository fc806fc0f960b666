"""The digest of a merge that isn't written is that of the files of one that is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import edit
from fixture_data import fixture

from tinylora_tools import load_adapter
from tinylora_tools.errors import MismatchError
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.merge.writing import digest as module
from tinylora_tools.ops.merge.writing.digest import merged_digest


@pytest.mark.parametrize(
    "name", ["peft021-lm-head", "peft020-gpt2", "peft020-seed-only", "peft021-pickled", "peft021-bias-all"]
)
@pytest.mark.parametrize(("threads", "elements"), [(1, 450_000), (3, 50)], ids=["whole", "in pieces"])
def test_it_is_the_written_files_digest(
    name: str, threads: int, elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untied, Conv1D, sharded, pickled and with biases."""
    case = fixture(name)
    merge([case.adapter], tmp_path / "out", case.base)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    each = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", elements)
    found = merged_digest(load_adapter(case.adapter, case.base), case.base, threads=threads)
    assert found == hashlib.sha256(each.encode()).hexdigest()


def test_what_merge_refuses_has_no_digest(copied: Callable[[str], tuple[Path, Path]]) -> None:
    adapter, base = copied("peft021-scalar")
    target = "model.layers.1.self_attn.v_proj.weight"
    edit(base / "model.safetensors", lambda tensors: tensors[target].__setitem__((0, 0), np.inf))
    with pytest.raises(MismatchError, match="the base's weights hold NaN or Inf"):
        merged_digest(load_adapter(adapter, base), base, threads=2)
