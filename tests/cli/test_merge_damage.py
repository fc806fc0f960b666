"""Files that are damaged or lie: a message that says what, where and what to do, exit 1, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import edit
from safetensors.numpy import load_file, save_file

from tinylora_tools.formats.packed import content_mark
from tinylora_tools.formats.safetensors_file import read_header

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_truncated_files(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    for path in (base / "model.safetensors", adapter / "adapter_model.safetensors"):
        whole = path.read_bytes()
        for size in (0, 5, 100, len(whole) - 1):
            path.write_bytes(whole[:size])
            assert path.name in refused(adapter, base)
        path.write_bytes(whole)


def test_header_that_lies(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"shape":[32,32]', b'"shape":[32,33]', 1))
    assert "takes 4224 bytes but has 4096" in refused(adapter, base)


def test_numbers_too_long(copied: Copied, refused: Callable[..., str]) -> None:
    """Python itself refuses to read integers of more than 4300 digits."""
    adapter, base = copied("peft020-tiny")
    for path in (adapter / "adapter_config.json", base / "config.json"):
        whole = path.read_text()
        path.write_text(whole.replace("{", '{"n": ' + "9" * 5000 + ",", 1))
        message = refused(adapter, base)
        assert f"{path}: not valid JSON" in message
        assert "next: " in message
        path.write_text(whole)
    for key in ("base_model.tinylora_v.{}", "base_model.model.model.layers.{}.self_attn.q_proj.tinylora_A"):
        long = key.format("9" * 5000)
        edit(adapter / "adapter_model.safetensors", lambda t, long=long: t.update({long: np.zeros(3, np.float32)}))
        assert "a tensor's name has 50" in refused(adapter, base)
        edit(adapter / "adapter_model.safetensors", lambda t, long=long: t.pop(long))


def test_numbers_too_long_in_a_packed_adapter(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    path, long = tmp_path / "packed.safetensors", "9" * 5000
    assert tinylora("convert", "packed", adapter, "-o", path, "--base", base).code == 0
    tensors, metadata = load_file(path), dict(read_header(path).metadata)
    for changed, named, message in (
        ({"config": f'{{"u": {long}}}'}, {}, "hold no configuration"),
        ({"groups": f"[{long}]"}, {}, "'groups' isn't a list of int"),
        ({}, {"v.0": f"v.{long}"}, "which nothing packs"),
    ):
        held, said = {named.get(name, name): values for name, values in tensors.items()}, metadata | changed
        save_file(held, path, said | {"content": content_mark(said, held, held.__getitem__)})
        result = tinylora("merge", path, "--base", base, "-o", tmp_path / "o")
        assert (result.code, message in result.err) == (1, True), result


def test_index(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-seed-only")
    path = base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, shard = next(iter(index["weight_map"].items()))
    for outside in ("../x.safetensors", "/etc/passwd", "a/../../x"):
        path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], name: outside}}))
        assert "outside its directory" in refused(adapter, base)
    other = next(s for s in index["weight_map"].values() if s != shard)
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], name: other}}))
    assert "doesn't hold it" in refused(adapter, base)
    path.write_text(json.dumps(index))
    (base / shard).unlink()
    message = refused(adapter, base)
    assert shard in message
    assert "Finish the download" in message
    path.write_text("{")
    assert "not valid JSON" in refused(adapter, base)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf(copied: Copied, refused: Callable[..., str], value: float) -> None:
    adapter, base = copied("peft020-tiny")
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    edit(weights, lambda t: t["base_model.tinylora_v.3"].fill(value))
    assert "vector of group 3 holds NaN or Inf" in refused(adapter, base)
    weights.write_bytes(whole)
    edit(weights, lambda t: t["base_model.model.model.layers.0.self_attn.q_proj.tinylora_A"].__setitem__((0, 3), value))
    message = refused(adapter, base, "--no-verify-base")
    assert "model.layers.0.self_attn.q_proj.weight: rows 0 to" in message
    assert "NaN or Inf" in message
    weights.write_bytes(whole)
    edit(base / "model.safetensors", lambda t: t["model.layers.1.mlp.up_proj.weight"].__setitem__((5, 5), value))
    assert "the base's weights hold NaN or Inf" in refused(adapter, base)


def test_pickles_are_not_run(copied: Copied, refused: Callable[..., str], tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/exploded",)

    adapter, base = copied("peft021-pickled")
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"a": Bomb()}))
    assert "read safely" in refused(adapter, base)
    assert not (tmp_path / "exploded").exists()
