"""`tinylora merge` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import edit, edit_json
from fixture_data import fixture, tensors

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]

MERGE_KEYS = {
    "output", "base", "adapters", "dry_run", "modules_merged", "tensors_replaced", "tensors_copied",
    "tensors_dequantized", "bytes_written", "seconds", "tied", "head", "delta_error", "modules", "warnings",
}  # fmt: skip


def test_merge_reports(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft021-embedding")
    arguments = ["merge", case.adapter, "--base", case.base]
    dry = tinylora(*arguments, "-o", tmp_path / "a", "--dry-run", "--json")
    assert json.loads(dry.out).keys() == MERGE_KEYS
    assert "base not looked at" in tinylora(*arguments, "-o", tmp_path / "a", "--dry-run").out
    assert list(tmp_path.iterdir()) == []
    real = json.loads(tinylora(*arguments, "-o", tmp_path / "a", "--json").out)
    assert real.keys() == MERGE_KEYS
    assert real["modules"][0].keys() == {"name", "tensor", "delta_norm", "weight_norm", "delta_error", "rho"}
    assert real["modules_merged"] == len(case.modules)
    assert real["bytes_written"] == sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    text = tinylora(*arguments, "-o", tmp_path / "b")
    assert "3 modules merged" in text.out
    assert "tied embeddings untied" in text.out
    assert (
        f"3 targeted weights fit the adapter's factors to a residual of {max(m['rho'] for m in real['modules']):.1e}; "
        in (text.out)
    )
    assert f"; {real['tensors_copied']} not looked at\n" in text.out
    unseen = tinylora(*arguments, "-o", tmp_path / "d", "--no-verify-base").out
    assert unseen.endswith("  base not looked at: no weight was compared with factors\n")
    assert "fit the adapter's factors" not in unseen
    quiet = tinylora(*arguments, "-o", tmp_path / "c", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_a_device_without_memory(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    assert "device 'meta' isn't usable here" in refused(adapter, base, "--device", "meta")


def test_a_p_that_is_not_stored_is_drawn_by_the_stream_that_is_named(
    copied: Copied, tinylora: Run, tmp_path: Path
) -> None:
    """PEFT drew this adapter's P on a CPU without AVX2: merged without its P, by that stream alone is it the same."""
    adapter, base = copied("peft021-scalar")
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "as-trained").code == 0
    edit(adapter / "adapter_model.safetensors", lambda t: [t.pop(key) for key in list(t) if key.endswith("_P")])
    edit_json(adapter / "adapter_config.json", save_projection=False)

    def weights(directory: str) -> bytes:
        return (tmp_path / directory / "model.safetensors").read_bytes()

    for stream in ("torch-cpu-avx2", "torch-cpu-scalar"):
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / stream, "--stream", stream)
        assert f"here as {stream} draws it" in result.err
        stored = tmp_path / f"stored-{stream}"
        assert tinylora("project", adapter, "--base", base, "-o", stored, "--stream", stream).code == 0
        assert tinylora("merge", stored, "--base", base, "-o", tmp_path / f"merged-{stream}").code == 0
        assert weights(stream) == weights(f"merged-{stream}")
    assert weights("torch-cpu-scalar") == weights("as-trained") != weights("torch-cpu-avx2")


def test_what_rounding_changed_is_said(tinylora: Run, tmp_path: Path) -> None:
    """The shares in the text are those of float64 algebra on the files."""
    case = fixture("peft021-layers")
    result = tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o", "--json")
    before, after = tensors(case.base), tensors(tmp_path / "o")
    errors, norms = {}, {}
    for row in case.modules:
        key = f"{row['name']}.weight"
        change = after[key].astype(np.float64) - before[key].astype(np.float64)
        errors[row["name"]] = float(np.sum((change - case.delta(row["name"])) ** 2))
        norms[row["name"]] = float(np.sum(case.delta(row["name"]) ** 2))
    share = (sum(errors.values()) / sum(norms.values())) ** 0.5
    assert json.loads(result.out)["delta_error"] == pytest.approx(share, rel=1e-3)
    worst = max(errors, key=lambda name: errors[name] / norms[name])
    text = tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "p").out
    assert f"rounding changed the update by {share:.2%} of its norm" in text
    assert f"most in {worst}: {(errors[worst] / norms[worst]) ** 0.5:.2%}" in text
