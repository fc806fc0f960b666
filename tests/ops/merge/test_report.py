"""What a merge's figures mean: against float64, and on bases that aren't the adapter's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_files import edited_copy
from fixture_data import MERGEABLE, Fixture, fixture, tensors
from safetensors.torch import load_file, save_file

from tinylora_tools.errors import MismatchError
from tinylora_tools.ops.merge.run import merge


def test_reports_what_rounding_leaves(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    base = tensors(case.base)
    for scale in (1.0, 1e-3, 1e-7):
        out = tmp_path / f"{scale}"
        report = merge([case.adapter], out, case.base, scale=scale)
        merged = tensors(out)
        errors = norms = 0.0
        by_name = {module.name: module for module in report.modules}
        for row in case.modules:
            key, delta = f"{row['name']}.weight", scale * case.delta(row["name"])
            error = (merged[key].astype(np.float64) - base[key].astype(np.float64)) - delta
            errors += float(np.sum(error**2))
            norms += float(np.sum(delta**2))
            expected = np.linalg.norm(error) / np.linalg.norm(delta)
            assert by_name[row["name"]].delta_error == pytest.approx(expected, rel=1e-3)
        assert report.delta_error == pytest.approx(np.sqrt(errors / norms), rel=1e-3)
        assert any("dtype='float32'" in warning for warning in report.warnings) == (report.delta_error > 0.5)


def noised(path: Path, name: str, share: float) -> None:
    """Move one weight by a share of its norm."""
    state = load_file(path)
    noise = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(0))
    moved = state[name].float() + share * state[name].float().norm() / noise.norm() * noise
    state[name] = moved.to(state[name].dtype)
    save_file(state, path, metadata={"format": "pt"})


def test_a_weight_that_moved_is_warned_of_and_another_s_refused(
    copied: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    adapter, base = copied("peft021-scalar")
    module = "model.layers.1.self_attn.v_proj"
    assert not any("have changed" in text for text in merge([adapter], tmp_path / "own", base).warnings)
    noised(base / "model.safetensors", f"{module}.weight", 0.01)
    report = merge([adapter], tmp_path / "moved", base)
    rho = {row.name: row.rho for row in report.modules}
    assert max(rho, key=lambda name: rho[name] or 0.0) == module
    assert (
        f"1 of 4 weights have changed since the adapter's factors were computed ({module} most, residual "
        f"{rho[module]:.2g}): is this a fine-tuned relative of its base?"
    ) in report.warnings
    noised(base / "model.safetensors", f"{module}.weight", 5.0)
    with pytest.raises(MismatchError, match=f"{module}: the adapter's factors don't belong to this weight") as caught:
        merge([adapter], tmp_path / "other", base)
    assert caught.value.where == f"{module}.weight"
    assert "verify_base=False skips the check" in str(caught.value.hint)
    unchecked = merge([adapter], tmp_path / "other", base, verify_base=False)
    assert {row.rho for row in unchecked.modules} == {None}


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
def test_what_would_be_done_is_what_is_done(case: Fixture, tmp_path: Path) -> None:
    """A dry run counts what the merge then does; what it replaces is what the adapter brings whole."""
    dry = merge([case.adapter], tmp_path / "out", case.base, dry_run=True)
    assert (dry.modules, dry.delta_error) == ([], None)
    assert not (tmp_path / "out").exists()
    done = merge([case.adapter], tmp_path / "out", case.base)
    for field in ("modules_merged", "tensors_replaced", "tensors_copied", "bytes_written", "tied"):
        assert getattr(dry, field) == getattr(done, field), field
    out = tensors(tmp_path / "out")
    assert len(done.modules) + done.tensors_replaced + done.tensors_copied == len(out)
    assert done.bytes_written == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))


def test_an_update_of_zero_loses_nothing(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    zeros = edited_copy(case.name, tmp_path / "a", lambda found: found["base_model.tinylora_v.0"].fill(0))
    report = merge([zeros], tmp_path / "out", case.base)
    assert (report.delta_error, {row.delta_norm for row in report.modules}) == (0.0, {0.0})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (case.base / "model.safetensors").read_bytes()
