"""PEFT's adapters written again: the installed PEFT loads the same values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import transformers
from damage import without_digests
from fixture_data import FIXTURES, Fixture, fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.errors import MismatchError, UnsupportedError
from tinylora_tools.formats.peft.adapter import read_adapter
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.peft import PeftReport, to_peft

pytestmark = pytest.mark.filterwarnings("ignore")


def convert(case: Fixture, output: Path, **options: Any) -> PeftReport:
    return to_peft(case.adapter, output, base=case.base, **options)


def values(adapter: Path) -> dict[str, np.ndarray[Any, Any]]:
    read = read_adapter(adapter)
    return {name: read.file.read(name) for name in read.file.tensors}


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_what_belongs_to_the_adapter_stays_as_it_is(case: Fixture, tmp_path: Path) -> None:
    report = convert(case, tmp_path / "out")
    before, after = values(case.adapter), values(tmp_path / "out")
    leaked = {
        key for modules in read_adapter(case.adapter).leaked.values() for keys in modules.values() for key in keys
    }
    assert after.keys() == before.keys() - leaked
    assert report.left_out == len(leaked)
    assert all(after[key].tobytes() == before[key].tobytes() for key in after)
    config, other = (json.loads((d / "adapter_config.json").read_text()) for d in (case.adapter, tmp_path / "out"))
    assert {**config, "save_projection": report.projection} == other


def test_keys_of_other_adapters_are_split_off(tmp_path: Path) -> None:
    assert convert(fixture("peft019-two"), tmp_path / "out").left_out > 0
    assert not read_adapter(tmp_path / "out").leaked


def test_a_pickle_becomes_safetensors(tmp_path: Path) -> None:
    convert(fixture("peft021-pickled"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_p_comes_and_goes_bit_for_bit(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    assert read_adapter(case.adapter).has_projections
    report = convert(case, tmp_path / "without", save_projection=False)
    assert (report.projection, read_adapter(tmp_path / "without").has_projections) == (False, False)
    assert len(without_digests(tmp_path / "without" / "adapter_model.safetensors")) < report.bytes_read
    to_peft(tmp_path / "without", tmp_path / "with", base=case.base, save_projection=True)
    before, after = values(case.adapter), values(tmp_path / "with")
    assert before.keys() == after.keys()
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)


def test_p_that_its_seed_does_not_draw_is_never_left_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="seed of P isn't known"):
        convert(fixture("peft019-shared"), tmp_path / "out", save_projection=False)
    case = fixture("peft021-layers")
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapter, adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    key = next(key for key in tensors if key.endswith("tinylora_P"))
    tensors[key] = tensors[key].copy()
    tensors[key][0, 0, 0] += 0.25
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedError, match="isn't what its seed draws"):
        to_peft(adapter, tmp_path / "out", base=case.base, save_projection=False)
    assert not (tmp_path / "out").exists()


def test_half_the_size_with_nothing_lost(tmp_path: Path) -> None:
    """PEFT loads A, B and P stored in bfloat16 to the very values that it saved in float32."""
    case = fixture("peft021-13-numbers")
    report = convert(case, tmp_path / "out", save_projection=True, adapter_dtype="bfloat16")
    full = convert(case, tmp_path / "full", save_projection=True)
    data = [
        sum(i.nbytes for i in read_header(Path(r.output) / "adapter_model.safetensors").tensors.values())
        for r in (report, full)
    ]
    assert data[0] - 13 * 4 == (data[1] - 13 * 4) // 2
    states = []
    for adapter in ("out", "full"):
        model = transformers.AutoModelForCausalLM.from_pretrained(case.base, dtype="auto")
        loaded = peft.PeftModel.from_pretrained(model, tmp_path / adapter)
        states.append({k: v for k, v in loaded.state_dict().items() if "tinylora" in k})
    assert states[0].keys() == states[1].keys()
    for key, one in states[0].items():
        assert one.dtype == states[1][key].dtype
        assert bool((one == states[1][key]).all()), key


def test_a_dtype_that_would_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="bfloat16 would round"):
        convert(fixture("peft021-bias-own"), tmp_path / "out", adapter_dtype="bfloat16")
    assert not (tmp_path / "out").exists()


def test_modules_that_the_file_lacks_are_computed(tmp_path: Path) -> None:
    """As PEFT leaves them out beside an adapter that is called "o_proj", and computes them when it loads the file."""
    base = fixture("peft021-layers").base
    config = {"r": 2, "u": 3, "target_modules": ["q_proj", "o_proj"], "init_weights": "uniform"}
    model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), peft.TinyLoraConfig(**config))
    model.save_pretrained(tmp_path / "whole")
    model.add_adapter("o_proj", peft.TinyLoraConfig(**config))
    model.save_pretrained(tmp_path / "beside", selected_adapters=["default"])
    with pytest.raises(MismatchError, match="and 11 more, which its configuration targets in the base"):
        to_peft(tmp_path / "beside", tmp_path / "out", base=base)
    report = to_peft(tmp_path / "beside", tmp_path / "out", base=base, complete=True)
    assert (report.modules, "weren't in the file" in report.warnings[0]) == (24, True)
    weights = "adapter_model.safetensors"
    assert without_digests(tmp_path / "out" / weights) == (tmp_path / "whole" / weights).read_bytes()
