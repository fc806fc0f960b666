"""An adapter that wouldn't come back as it is is refused, and the way out that is told works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixture_data import fixture
from packed_files import edited_adapter

from tinylora_tools.errors import UnsupportedError
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.packed_proof import compare


@pytest.mark.parametrize(
    ("ends", "dtype", "way_out"),
    [
        (("_A",), torch.bfloat16, "adapter_dtype='float32'"),
        (("_A",), torch.float64, "Ship it in PEFT's form"),
        (("_A", "_B"), torch.float64, "Ship it in PEFT's form"),
        (("_A", "_B", "_P"), torch.float64, "Ship it in PEFT's form"),
        ((".0",), torch.bfloat16, "Ship it in PEFT's form"),
    ],
    ids=str,
)
def test_dtypes_that_cannot_come_back_are_refused(
    ends: tuple[str, ...], dtype: torch.dtype, way_out: str, tmp_path: Path
) -> None:
    case = fixture("peft021-layers")

    def change(state: dict[str, Any]) -> None:
        for key in state:
            if key.endswith(ends):
                state[key] = state[key].to(dtype) * (1 + 1e-3 * (dtype == torch.float64))

    adapter = edited_adapter(case, tmp_path / "a", change)
    with pytest.raises(UnsupportedError, match="wouldn't come back as it is") as caught:
        pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    assert way_out in str(caught.value.hint)
    assert not (tmp_path / "p.safetensors").exists()


def test_a_hint_that_says_to_leave_exact_out_is_right(tmp_path: Path) -> None:
    case = fixture("peft021-layers")

    def widen(state: dict[str, Any]) -> None:
        for key in [key for key in state if key.endswith(("_A", "_B", "_P"))]:
            state[key] = state[key].double() * (1 if key.endswith("_P") else 1 + 1e-9)

    adapter = edited_adapter(case, tmp_path / "a", widen)
    with pytest.raises(UnsupportedError) as caught:
        pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    assert str(caught.value.hint).startswith("Leave exact out")
    assert not pack(adapter, tmp_path / "p.safetensors", base=case.base).identical


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("A", {"exact": False, "rounded": False}),
        ("B", {"exact": False, "rounded": True}),
        ("v", {"exact": True, "rounded": True}),
    ],
)
def test_only_what_may_differ_does(part: str, allowed: dict[str, bool]) -> None:
    adapter = read_adapter(fixture("peft021-layers").adapter)
    back = {name: adapter.file.read(name) for name in adapter.file.tensors}
    for exact in (True, False):
        for rounded in (True, False):
            assert compare(adapter, back, exact=exact, rounded=rounded)
    key = next(name for name in back if f"tinylora_{part}" in name)
    other = back | {key: back[key] + 1}
    assert not compare(adapter, other, **allowed)
    with pytest.raises(UnsupportedError, match=f"{key} wouldn't come back as it is"):
        compare(adapter, other, exact=True, rounded=False)


@pytest.mark.parametrize("change", ["lost", "added", "P", "negative zero", "wide", "reshaped"])
def test_nothing_is_lost_added_or_changed(change: str) -> None:
    adapter = read_adapter(fixture("peft021-layers").adapter)
    back = {name: adapter.file.read(name) for name in adapter.file.tensors}
    A, P, v = (next(name for name in back if f"tinylora_{part}" in name) for part in "APv")
    changed = {
        "lost": {name: values for name, values in back.items() if name != A},
        "added": {**back, "base_model.model.x.bias": np.zeros(1)},
        "P": {**back, P: np.nextafter(back[P], np.float32(9))},
        "negative zero": {**back, v: -back[v] * 0.0},
        "wide": {**back, A: back[A].astype(np.float64)},
        "reshaped": {**back, A: back[A].reshape(-1)},
    }[change]
    with pytest.raises(UnsupportedError, match="wouldn't come back as it is: this form can't hold the adapter"):
        compare(adapter, changed, exact=False, rounded=False)
