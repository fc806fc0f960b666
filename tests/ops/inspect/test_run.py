"""What was named is told apart: adapters, packed ones, other projects', checkpoints, and what is none of them."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fixture_data import ROOT, fixture
from safetensors.numpy import save_file

from tinylora_tools import load_adapter
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import FormatError
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.inspect.adapter import AdapterReport
from tinylora_tools.ops.inspect.checkpoint import CheckpointReport
from tinylora_tools.ops.inspect.packed import PackedReport
from tinylora_tools.ops.inspect.run import inspect


def test_a_path_and_what_is_open_are_described_alike() -> None:
    case = fixture("peft021-scalar")
    by_path = inspect(case.adapter, case.base)
    assert isinstance(by_path, AdapterReport)
    assert asdict(inspect(load_adapter(case.adapter), case.base)) == asdict(by_path)  # type: ignore[call-overload]
    assert asdict(inspect(case.base)) == asdict(inspect(Base(case.base)))  # type: ignore[call-overload]


def test_each_kind_is_told(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    kinds = {
        case.adapter: AdapterReport,
        case.adapter / "adapter_model.safetensors": AdapterReport,
        fixture("peft021-pickled").adapter / "adapter_model.bin": AdapterReport,
        tmp_path / "p.safetensors": PackedReport,
        case.base: CheckpointReport,
        case.base / "model.safetensors": CheckpointReport,
        ROOT / "bases" / "llama-pickled-fp32" / "pytorch_model.bin": CheckpointReport,
    }
    assert {path: type(inspect(path)) for path in kinds} == kinds


def test_an_order_tells_places_where_nothing_else_does(tmp_path: Path) -> None:
    case = fixture("peft019-shared")
    shutil.copy(case.adapter / "adapter_model.safetensors", tmp_path / "adapter.safetensors")
    order = [row["name"] for row in case.modules]
    report = inspect(tmp_path / "adapter.safetensors", module_order=order)
    assert isinstance(report, AdapterReport)
    assert ([row.name for row in report.modules], report.order_from) == (order, "given")


def test_what_is_none_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="neither an adapter nor a checkpoint is in this directory"):
        inspect(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match=r"not a weights file: expected the ending \.safetensors or \.bin"):
        inspect(tmp_path / "notes.txt")
    save_file({"W": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    told = inspect(fixture("peft021-scalar").adapter, tmp_path / "model.safetensors")
    assert isinstance(told, AdapterReport)
    assert told.order_from == "stored P"
    with pytest.raises(FormatError, match=r"no model here: neither a config\.json nor weights"):
        inspect(fixture("peft021-scalar").adapter, fixture("peft021-scalar").adapter)
    report = inspect(tmp_path)
    assert isinstance(report, CheckpointReport)
    assert (report.architecture, report.parameters) == (None, 3)
