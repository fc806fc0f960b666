"""What inspect says of a packed adapter, against the report of packing it and the adapter itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixture_data import fixture
from packed_files import edited

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.packed import packed_at
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.inspect.packed import PackedReport, inspect_packed


def described(path: Path) -> PackedReport:
    packed = packed_at(path)
    assert packed is not None
    return inspect_packed(packed)


@pytest.mark.parametrize("name", ["peft021-13-numbers", "peft019-shared", "peft021-bias-all", "peft021-scalar"])
def test_counts_are_those_of_packing(name: str, tmp_path: Path) -> None:
    case, path = fixture(name), tmp_path / "p.safetensors"
    packed = pack(case.adapter, path, base=case.base)
    report = described(path)
    assert (report.kind, report.path) == ("tinylora-packed", str(path))
    assert report.trainable_bytes == packed.payload_bytes
    assert (report.corrections, report.correction_bytes) == (packed.corrections, packed.correction_bytes)
    assert (report.other_bytes, report.file_bytes) == (packed.other_bytes, path.stat().st_size)
    assert report.error == pytest.approx(packed.error, rel=0.1)
    vectors = {row["group"]: case.live[f"{row['name']}.v"].size for row in case.modules}
    assert (report.groups, report.trainable_parameters) == (len(vectors), sum(vectors.values()))
    config = json.loads((case.adapter / "adapter_config.json").read_text())
    assert report.base_model == config["base_model_name_or_path"]
    assert {key: report.config[key] for key in ("r", "u", "weight_tying", "bias")} == {
        key: config[key] for key in ("r", "u", "weight_tying", "bias")
    }


def test_what_draws_p_is_named_where_a_seed_does(tmp_path: Path) -> None:
    streams = {"peft021-layers": "torch-cpu-avx2", "peft021-scalar": "torch-cpu-scalar", "peft019-shared": None}
    for name, stream in streams.items():
        case = fixture(name)
        pack(case.adapter, tmp_path / f"{name}.safetensors", base=case.base)
        assert described(tmp_path / f"{name}.safetensors").stream == stream


def test_an_error_that_is_no_number_is_refused(tmp_path: Path) -> None:
    case, path = fixture("peft021-layers"), tmp_path / "p.safetensors"
    pack(case.adapter, path, base=case.base)
    with pytest.raises(FormatError, match="its metadata's 'error' isn't a number"):
        described(edited(path, error="small"))
