"""What adapters ask of their base, against what PEFT's live modules hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edited_files import edited_copy
from fixture_data import fixture

from tinylora_tools import load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.bases.tensor_names import BaseNames
from tinylora_tools.errors import MismatchError, UnsupportedError
from tinylora_tools.ops.merge.gather import gather
from tinylora_tools.ops.merge.words import Change


def asked(base: Path, *adapters: Path, scales: tuple[float, ...] = ()) -> dict[str, Change]:
    at = open_base(base)
    opened = [load_adapter(adapter, at) for adapter in adapters]
    return gather(opened, scales or (1.0,) * len(adapters), BaseNames(at.checkpoint, at.architecture), None)


def test_every_update_is_the_live_modules(tmp_path: Path) -> None:
    """Summed from two adapters, each with its scale; Conv1D is stored the other way round."""
    case = fixture("peft020-gpt2")
    found = asked(case.base, case.adapter, case.adapter, scales=(1.0, -0.5))
    assert {name for name, change in found.items() if change.updates} == {f"{m['name']}.weight" for m in case.modules}
    for module in case.modules:
        v, P = (case.live[f"{module['name']}.{part}"].astype(np.float64) for part in "vP")
        R = np.einsum("i,ijk->jk", v, P)
        updates = found[f"{module['name']}.weight"].updates
        assert [update.module for update in updates] == [module["name"]] * 2
        for update, scale in zip(updates, (1.0, -0.5), strict=True):
            assert np.allclose(update.R, scale * R, rtol=1e-12, atol=1e-15)
            assert update.transposed == (module["kind"] == "Conv1D")
            A, B = update.factors()
            assert np.array_equal(A, case.live[f"{module['name']}.A"])
            assert np.array_equal(B, case.live[f"{module['name']}.B"])


def test_what_two_adapters_bring_alike_is_taken_once_and_otherwise_refused(tmp_path: Path) -> None:
    case = fixture("peft021-bias-all")
    brought = {name for name, change in asked(case.base, case.adapter, case.adapter).items() if change.replacement}
    assert len(brought) == 8
    key = next(key for key in load_adapter(case.adapter).header.file.tensors if key.endswith("k_proj.bias"))

    def move(tensors: dict[str, Any]) -> None:
        tensors[key] = tensors[key] + 1

    other = edited_copy(case.name, tmp_path / "a", move)
    with pytest.raises(MismatchError, match="two adapters bring different values for it, which can't be summed"):
        asked(case.base, case.adapter, other)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda bias: np.append(bias, bias), MismatchError, r"the adapter brings shape \(64,\), the base's .* \(32,\)"),
        (lambda bias: bias.astype(np.int32), UnsupportedError, "is stored as I32"),
    ],
    ids=["shape", "dtype"],
)
def test_a_tensor_that_cannot_replace_the_base_s(
    change: Any, error: type[Exception], said: str, tmp_path: Path
) -> None:
    case = fixture("peft021-bias-own")
    key = next(key for key in load_adapter(case.adapter).header.file.tensors if key.endswith(".bias"))
    size = len(load_adapter(case.adapter).header.file.read(key))
    adapter = edited_copy(case.name, tmp_path / "a", lambda tensors: tensors.update({key: change(tensors[key])}))
    with pytest.raises(
        error, match=said.replace("64", str(2 * size)).replace("32", str(size)) if "shape" in said else said
    ):
        asked(case.base, adapter)


def test_a_module_that_the_base_lacks_is_named() -> None:
    with pytest.raises(MismatchError, match="the checkpoint has no tensor for model"):
        asked(fixture("peft020-gpt2").base, fixture("peft021-scalar").adapter)
