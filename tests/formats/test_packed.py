"""The packed form's file: its metadata, its tensors, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from fixture_data import FIXTURES, Fixture, fixture
from hypothesis import given
from hypothesis import strategies as st
from packed_files import edited, restored, tampered, values
from safetensors import safe_open
from safetensors.torch import save_file

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.packed import CONTENT, as_packed, content_mark, lean_config, long, packed_at, short
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.packed import pack

Run = Callable[..., Any]


def test_tensors_that_nothing_packs_are_refused(tmp_path: Path, tinylora: Run) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    own = [key for key in values(case.adapter) if key.endswith((".tinylora_A", ".tinylora_v.0"))]
    for key in ("foo", "v.00", "base_model.foo", own[0], own[-1]):
        path = tampered(tmp_path / "p.safetensors", lambda state, key=key: state.update({key: torch.ones(2)}))
        with pytest.raises(FormatError, match=f"holds {key}, which nothing packs"):
            packed_at(path)
        assert tinylora("inspect", path).code == 1


KEYS = ("A", "B", "P", "P_of", "config", "dtypes", "error", "format", "groups", "modules", "signs", "stored", "stream")


WRONG = (
    None,
    "",
    "[",
    "{}",
    "[1]",
    "[[]]",
    "null",
    "x",
    "\u00e9",
    "-1",
    '["nowhere"]',
    '{"r": "2"}',
    '{"u": -1, "r": 0}',
)


@pytest.mark.parametrize("key", [*KEYS, CONTENT, "v", "version", "weights"])
def test_no_metadata_make_it_stumble(key: str, tmp_path: Path, tinylora: Run) -> None:
    """Whatever a field says, the file is read as before, or there is a message."""
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    for value in WRONG:
        path = edited(tmp_path / "p.safetensors", **{key: value})
        result = tinylora("convert", "peft", path, "-o", tmp_path / "o", "--base", case.base, "-f")
        assert result.code == 0 or result.err.startswith("error: "), (key, value)
        shown = tinylora("inspect", path)
        assert shown.code == 0 or shown.err.startswith("error: "), (key, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "2"), ("r", 0), ("u", -1), ("u", 5), ("weight_tying", 2), ("weight_tying", 0.9), ("projection_seed", 43),
        ("projection_seed", "42"), ("save_projection", 1), ("target_modules", 7), ("target_modules", ["nowhere"]),
        ("target_modules", "("), ("peft_type", "LORA"), ("task_type", 3), ("base_model_name_or_path", 3),
        ("layers_to_transform", "x"), ("modules_to_save", [3]), ("revision", 5), ("task_type", "X"),
        ("modules_to_save", ["("]),
    ],
    ids=str,
)  # fmt: skip
def test_no_configuration_makes_it_stumble(field: str, value: Any, tmp_path: Path, tinylora: Run) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    config = json.loads(read_header(tmp_path / "p.safetensors").metadata["config"])
    path = edited(tmp_path / "p.safetensors", config=json.dumps(config | {field: value}))
    result = tinylora("convert", "peft", path, "-o", tmp_path / "o", "--base", case.base)
    assert result.code == 0 or result.err.startswith("error: "), result.err
    shown = tinylora("inspect", path)
    assert shown.code == 0 or shown.err.startswith("error: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "2"}, "packed in version 2"),
        ({"config": "["}, "no configuration"),
        ({"weights": None}, "lack 'weights'"),
        ({CONTENT: None}, "lack 'content'"),
        ({"groups": "{}"}, "isn't a list"),
    ],
    ids=str,
)
def test_a_file_that_was_changed_is_told(tmp_path: Path, changes: dict[str, str | None], said: str) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    with pytest.raises(FormatError, match=said):
        restored(edited(tmp_path / "p.safetensors", **changes), case.base)


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_defaults_are_left_out_of_the_configuration_and_come_back(case: Fixture, tmp_path: Path) -> None:
    raw = json.loads((case.adapter / "adapter_config.json").read_text())
    path = tmp_path / "p.safetensors"
    save_file({}, path, {"format": "tinylora-packed", "version": "1", "config": lean_config(raw)})
    config = as_packed(read_header(path)).config
    defaults = {**peft.TinyLoraConfig().to_dict(), "inference_mode": True, "peft_version": None}
    assert json.loads(lean_config(raw)).keys() == {key for key in raw if raw[key] != defaults.get(key)}
    for key, value in raw.items():
        assert config.raw[key] == (sorted(value) if key == "target_modules" and isinstance(value, list) else value)


@given(st.binary(max_size=40))
def test_bytes_as_text_and_back(data: bytes) -> None:
    assert long(short(data)) == data
    assert "=" not in short(data)


def test_the_digest_is_of_all_but_itself_in_any_order() -> None:
    arrays = {"v.0": np.arange(3, dtype=np.float32), "P.0": np.ones((3, 1, 1), np.float32)}
    mark = content_mark({"a": "1", "b": "2"}, arrays, arrays.__getitem__)
    assert mark == content_mark({"b": "2", "a": "1", CONTENT: "x"}, reversed(arrays), arrays.__getitem__)
    others: list[dict[str, Any]] = [
        {"v.0": arrays["v.0"].view(np.int32), "P.0": arrays["P.0"]},
        {"v.0": arrays["v.0"].reshape(3, 1), "P.0": arrays["P.0"]},
        {"v.1": arrays["v.0"], "P.0": arrays["P.0"]},
        {"v.0": arrays["v.0"]},
    ]
    assert len({mark, *(content_mark({"a": "1", "b": "2"}, one, one.__getitem__) for one in others)}) == 5
    assert mark != content_mark({"a": "1", "b": "3"}, arrays, arrays.__getitem__)


def test_safetensors_reads_it(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    with safe_open(tmp_path / "p.safetensors", "np") as file:
        metadata = file.metadata()
        assert (metadata["format"], metadata["version"]) == ("tinylora-packed", "1")
        assert np.array_equal(file.get_tensor("v.0"), values(case.adapter)["base_model.tinylora_v.0"])


def test_what_is_no_packed_file_is_none(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    weights = case.adapter / "adapter_model.safetensors"
    assert packed_at(weights) is None
    assert packed_at(case.adapter) is None
    assert packed_at(tmp_path / "nowhere.safetensors") is None
    with pytest.raises(FormatError, match="isn't a packed adapter"):
        as_packed(read_header(weights))
