"""Packing: what it promises bit for bit, how large the file gets, and that other commands take it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import without_digests
from edited_files import edited_copy
from fixture_data import MERGEABLE, ROOT, Fixture, fixture
from packed_files import restored, values
from safetensors.torch import load_file, save_file

from tinylora_tools import described_by
from tinylora_tools.errors import FormatError, OutputError, UndeterminedError, UnsupportedError
from tinylora_tools.formats.packed import INDEX, VALUE
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.lora import to_lora
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.peft import to_peft
from tinylora_tools.ops.create.init import init

Run = Callable[..., Any]


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
def test_exactly_the_adapter_comes_back(case: Fixture, tmp_path: Path) -> None:
    report = pack(case.adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    assert report.error == 0.0
    tensors, config = restored(tmp_path / "p.safetensors", case.base)
    before = values(case.adapter)
    assert tensors.keys() == before.keys()
    for key, array in before.items():
        assert tensors[key].dtype == array.dtype, key
        assert tensors[key].tobytes() == array.tobytes(), key
    original = json.loads((case.adapter / "adapter_config.json").read_text())
    for key, value in original.items():
        assert config[key] == (sorted(value) if key == "target_modules" and isinstance(value, list) else value)


def test_thirteen_numbers_are_26_bytes(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapter, adapter)
    path = adapter / "adapter_model.safetensors"
    state = load_file(path)
    state["base_model.tinylora_v.0"] = state["base_model.tinylora_v.0"].to(torch.bfloat16).float()
    save_file(state, path, metadata={"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "Qwen/Qwen2.5-7B-Instruct", "revision": "0123456789" * 4}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    report = pack(adapter, tmp_path / "p.safetensors", base=case.base)
    file = read_header(tmp_path / "p.safetensors")
    assert report.payload_bytes == file.tensors["v.0"].nbytes == 26
    assert report.bytes_written - report.correction_bytes <= 1024


def test_exact_float32_factors_are_told_of_and_stored_whole(tmp_path: Path) -> None:
    case, told = fixture("peft020-tiny"), list[str]()
    report = pack(case.adapter, tmp_path / "p.safetensors", base=case.base, exact=True, tell=told.append)
    file = read_header(tmp_path / "p.safetensors")
    assert INDEX not in file.tensors
    assert file.tensors[VALUE].parameters == report.factor_entries
    assert told == [
        "exact stores nearly every entry of float32 factors, since no two libraries agree on them: about "
        f"{4 * report.factor_entries:,} bytes"
    ]
    bf16 = fixture("peft021-13-numbers")
    pack(bf16.adapter, tmp_path / "q.safetensors", base=bf16.base, exact=True, tell=told.append)
    assert len(told) == 1


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    (tmp_path / "p.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    assert (tmp_path / "p.safetensors").read_text() == "mine"
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base, force=True)


def test_commands_take_packed_files(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    packed, base = tmp_path / "p.safetensors", case.base
    assert tinylora("convert", "packed", case.adapter, "-o", packed, "--base", base, "--exact").code == 0
    assert tinylora("merge", packed, "--base", base, "-o", tmp_path / "one").code == 0
    assert tinylora("merge", case.adapter, "--base", base, "-o", tmp_path / "two").code == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert tinylora("verify-base", packed, "--base", base).code == 0
    assert tinylora("verify-seed", packed, "--base", base).code == 0
    shown = json.loads(tinylora("inspect", packed, "--json").out)
    assert shown["kind"] == "tinylora-packed"
    assert shown["trainable_parameters"] == sum(v.size for n, v in values(case.adapter).items() if ".tinylora_v." in n)
    assert "packed" in tinylora("inspect", packed).out
    assert tinylora("convert", "peft", packed, "-o", tmp_path / "back", "--base", base).code == 0
    whole = (case.adapter / "adapter_model.safetensors").read_bytes()
    assert without_digests(tmp_path / "back" / "adapter_model.safetensors") == whole
    assert tinylora("convert", "lora", packed, "-o", tmp_path / "lora", "--base", base).code == 0
    refused = tinylora("merge", packed, "--base", ROOT / "bases" / "llama-fp32", "-o", tmp_path / "no")
    assert refused.code == 1
    assert refused.err.startswith("error: ")


def test_the_report_counts_the_file(tmp_path: Path) -> None:
    for name in ("peft021-13-numbers", "peft021-bias-all", "peft019-shared"):
        case = fixture(name)
        report = pack(case.adapter, tmp_path / f"{name}.safetensors", base=case.base)
        file = read_header(tmp_path / f"{name}.safetensors")
        data = report.payload_bytes + report.correction_bytes + report.other_bytes
        assert data == sum(info.nbytes for info in file.tensors.values())
        assert report.bytes_written == file.size == len(file.header) + data
        assert report.payload_bytes == sum(i.nbytes for n, i in file.tensors.items() if n.startswith("v."))
        assert report.factor_entries == sum(
            case.live[f"{m['name']}.{part}"].size for m in case.modules for part in "AB"
        )


def test_p_of_some_modules_only_is_refused(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    key = f"base_model.model.{case.modules[0]['name']}.tinylora_P"
    adapter = edited_copy(case.name, tmp_path / "a", lambda tensors: tensors.pop(key))
    with pytest.raises(UnsupportedError, match="holds P of some modules only"):
        pack(adapter, tmp_path / "p.safetensors", base=case.base)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UndeterminedError, match=r"no adapter_config\.json beside the adapter"):
        pack(adapter, tmp_path / "p.safetensors", base=case.base)
    assert not (tmp_path / "p.safetensors").exists()


def test_layers_of_an_unknown_architecture_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2's, square and not: their factors tell how they are stored, and the file remembers it."""
    known, base = ROOT / "bases" / "gpt2-fp32", tmp_path / "base"
    shutil.copytree(known, base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "model_type": "nobody", "architectures": ["Nobody"]}))
    names = [f"transformer.h.{i}.{part}" for i in range(2) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")]
    config = TinyLoraConfig(r=2, u=3, target_modules=tuple(names), init_weights="uniform")
    init(known, tmp_path / "adapter", config)
    for order in (names, None):  # P tells it too
        pack(tmp_path / "adapter", tmp_path / "p.safetensors", base=base, module_order=order, exact=True, force=True)
        assert json.loads(read_header(tmp_path / "p.safetensors").metadata["transposed"]) == list(range(6))
        for at in (base, known):
            tensors, _ = restored(tmp_path / "p.safetensors", at)
            before = values(tmp_path / "adapter")
            assert tensors.keys() == before.keys()
            assert all(tensors[key].tobytes() == array.tobytes() for key, array in before.items())
    pack(tmp_path / "adapter", tmp_path / "q.safetensors", base=known)
    assert "transposed" not in read_header(tmp_path / "q.safetensors").metadata


def test_a_base_without_a_configuration_does_both_ways(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    base = tmp_path / "base"
    shutil.copytree(case.base, base)
    (base / "config.json").unlink()
    pack(case.adapter, tmp_path / "p.safetensors", base=base)
    to_peft(tmp_path / "p.safetensors", tmp_path / "back", base=base)
    tensors, before = values(tmp_path / "back"), values(case.adapter)
    assert {key: array.tobytes() for key, array in tensors.items()} == {k: a.tobytes() for k, a in before.items()}
    with described_by("plain"):
        to_lora(case.adapter, tmp_path / "lora", base=base)
    to_lora(case.adapter, tmp_path / "same", base=case.base)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "lora" / weights).read_bytes() == (tmp_path / "same" / weights).read_bytes()
    seed_only = fixture("peft021-13-numbers").adapter
    with pytest.raises(UndeterminedError, match=r"of the base .*base: no config\.json beside it tells the") as caught:
        to_lora(seed_only, tmp_path / "no", base=base)
    assert str(caught.value.hint).startswith("Put the model's own config.json beside its weights, or give the modules")
    with pytest.raises(FormatError, match=r"no model here: neither a config\.json nor weights"):
        to_lora(case.adapter, tmp_path / "no", base=case.adapter)
