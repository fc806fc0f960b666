"""verify-seed as a whole: merged bytes, its report, and a lost seed's part in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from edited_files import Tensors, edited_copy
from fixture_data import fixture

from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.verify import seed as module
from tinylora_tools.ops.verify.seed import verify_seed


@pytest.mark.parametrize("name", ["peft021-13-numbers", "peft020-gpt2"])
def test_merged_bytes_are_compared(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = fixture(name)
    found = [check for check in verify_seed(case.adapter, base=case.base).checks if check.name.startswith("merged")]
    assert [check.name for check in found][:2] == ["merged bytes, 1 thread", "merged bytes, 3 threads"]
    assert all(check.ok and check.identical for check in found)
    merge(case.adapter, tmp_path / "merged", case.base)
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    written = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert {check.digest for check in found} == {hashlib.sha256(written.encode()).hexdigest()}
    digests = iter("abc")
    monkeypatch.setattr(module, "merged_elsewhere", lambda *_, **__: next(digests))
    assert not verify_seed(case.adapter, base=case.base).ok


def test_json_has_the_promised_keys(tinylora: Any) -> None:
    report = json.loads(tinylora("verify-seed", fixture("peft021-scalar").adapter, "--json").out)
    assert {"ok", "checks", "adapter"} <= report.keys()
    assert {"name", "device", "stream", "identical", "max_ulp", "max_abs"} <= report["checks"][0].keys()
    assert {"regime", "stream", "dtype", "seed", "offset", "modules", "matched", "mismatched"} <= report[
        "adapter"
    ].keys()


def test_a_seed_that_is_not_lost_is_not_recovered() -> None:
    case = fixture("peft021-scalar")
    with pytest.raises(UndeterminedError, match="against recovers a lost seed; this adapter's isn't lost"):
        verify_seed(case.adapter, base=case.base, against=case.merged)


def test_a_lost_seed_can_t_be_merged() -> None:
    case = fixture("peft019-seed-only")
    report = verify_seed(case.adapter, base=case.base)
    assert ([check.name for check in report.checks], report.ok) == (["seed"], False)
    assert "against can recover it from a merged checkpoint or an adapter with P" in report.checks[0].note


@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("with_config", [True, False])
def test_a_file_of_vectors_alone_is_refused(with_base: bool, with_config: bool, tmp_path: Path) -> None:
    """As PEFT writes it beside an adapter that is called "model"."""
    case = fixture("peft021-layers")

    def vectors_alone(tensors: Tensors) -> None:
        for key in [key for key in tensors if ".tinylora_v." not in key]:
            del tensors[key]

    adapter = edited_copy(case.name, tmp_path / "a", vectors_alone, base_model_name_or_path=None)
    if not with_config:
        (adapter / "adapter_config.json").unlink()
    lacking = with_base and with_config
    said = "the file lacks model.layers.2.self_attn.o_proj and 5 more" if lacking else "no module has factors"
    with pytest.raises(MismatchError, match=said):
        verify_seed(adapter, base=case.base if with_base else None)
