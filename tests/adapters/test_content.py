"""Files that are named by themselves, told by what they hold."""

from __future__ import annotations

from pathlib import Path

import foreign_projects as projects
import numpy as np
import pytest
from edited_files import WEIGHTS
from fixture_data import ROOT, fixture
from safetensors.numpy import save_file

from tinylora_tools.adapters.content import content_of, open_file
from tinylora_tools.adapters.source import adapter_of, find_source
from tinylora_tools.errors import UnsupportedError
from tinylora_tools.formats.packed import Packed
from tinylora_tools.formats.peft.adapter import PeftAdapter
from tinylora_tools.formats.safetensors_file import SafetensorsFile
from tinylora_tools.formats.third_party import Found
from tinylora_tools.formats.torch_file import TorchFile
from tinylora_tools.ops.convert.packed import pack

STORED = fixture("peft021-layers")


def test_files_that_are_named_by_themselves(tmp_path: Path) -> None:
    """An adapter's, a packed one's, another project's and a checkpoint's; the last two are no PEFT adapter."""
    packed = tmp_path / "p.safetensors"
    pack(STORED.adapter, packed, base=STORED.base)
    projects.make_spuuntries(ROOT / "bases" / "llama-fp32", tmp_path / "theirs")
    pickled, checkpoint = fixture("peft021-pickled").adapter / "adapter_model.bin", STORED.base / "model.safetensors"
    opened = [
        open_file(path)
        for path in (STORED.adapter / WEIGHTS, pickled, packed, tmp_path / "theirs" / "adapter.pt", checkpoint)
    ]
    assert [type(content) for content in opened] == [SafetensorsFile, TorchFile, Packed, Found, SafetensorsFile]
    assert isinstance(opened[0], SafetensorsFile)
    assert isinstance(opened[4], SafetensorsFile)
    found = adapter_of(STORED.adapter / WEIGHTS, opened[0])
    assert found is not None
    assert found.open().modules.keys() == STORED.modules_by_name.keys()
    assert adapter_of(checkpoint, opened[4]) is None
    with pytest.raises(UnsupportedError, match="tensors is a TinyLoRA adapter's"):
        find_source(checkpoint)
    lora = tmp_path / "lora.safetensors"
    save_file({"base_model.model.q.lora_A.weight": np.zeros((2, 2), np.float32)}, lora)
    with pytest.raises(UnsupportedError, match="a LoRA adapter, not a TinyLoRA adapter"):
        find_source(lora)


def test_a_directory_is_what_its_files_are(tmp_path: Path) -> None:
    projects.make_spuuntries(ROOT / "bases" / "llama-fp32", tmp_path / "theirs")
    assert isinstance(content_of(STORED.adapter), PeftAdapter)
    assert isinstance(content_of(tmp_path / "theirs"), Found)
