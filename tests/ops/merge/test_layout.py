"""The files of a merged checkpoint: the base's shards, header bytes and index, wherever they still hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixture_data import fixture
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.inspect.checkpoint import CheckpointReport
from tinylora_tools.ops.inspect.run import inspect
from tinylora_tools.ops.merge.run import merge


def test_shards_in_sub_directories_stay_there(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    adapter, base = copied("peft020-seed-only")
    merge([adapter], tmp_path / "plain", base)
    index_path = base / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    places = {name: f"part{n}/model.safetensors" for n, name in enumerate(sorted(set(index["weight_map"].values())))}
    for name, place in places.items():
        (base / place).parent.mkdir()
        (base / name).rename(base / place)
    index["weight_map"] = {tensor: places[name] for tensor, name in index["weight_map"].items()}
    index_path.write_text(json.dumps(index))
    merge([adapter], tmp_path / "out", base)
    assert (tmp_path / "out" / index_path.name).read_bytes() == index_path.read_bytes()
    for name, place in places.items():
        assert (tmp_path / "out" / place).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    report = inspect(tmp_path / "out")
    assert isinstance(report, CheckpointReport)
    assert [row.name for row in report.shards] == list(places.values())


@pytest.mark.parametrize("metadata", [None, [], "x", {"total_size": 1, "note": "kept"}])
def test_metadata_of_an_index(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path, metadata: Any) -> None:
    adapter, base = copied("peft020-seed-only")
    path = base / "model.safetensors.index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metadata": metadata}))
    merge([adapter], tmp_path / "out", base, dtype="float32")
    written = json.loads((tmp_path / "out" / path.name).read_text())["metadata"]
    assert written == ({"note": "kept"} if isinstance(metadata, dict) else {}) | {"total_size": written["total_size"]}


@pytest.mark.parametrize("name", ["peft019-shared", "peft020-seed-only", "peft021-13-numbers", "peft021-vit"])
def test_keeps_headers_index_and_config_byte_for_byte(name: str, tmp_path: Path) -> None:
    case = fixture(name)
    merge([case.adapter], tmp_path / "out", case.base)
    for path in case.base.iterdir():
        written = tmp_path / "out" / path.name
        if path.suffix == ".safetensors":
            header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
            assert written.read_bytes()[:header] == path.read_bytes()[:header]
        else:
            assert written.read_bytes() == path.read_bytes()


def test_a_new_tensor_follows_the_one_it_was_tied_to(
    copied: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """In a sharded base, and the index lists it."""
    adapter, base = copied("peft021-embedding")
    state = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    first = [name for name in sorted(state) if "embed" in name or "layers.0." in name]
    shards = {"model-1.safetensors": first, "model-2.safetensors": [name for name in state if name not in first]}
    for name, keys in shards.items():
        save_file({key: state[key] for key in keys}, base / name, metadata={"format": "pt"})
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    merge([adapter], tmp_path / "out", base)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {**weight_map, "lm_head.weight": "model-1.safetensors"}
    data = 0
    for name in shards:
        with safe_open(tmp_path / "out" / name, "pt") as file:
            assert set(file.keys()) == {key for key, place in index["weight_map"].items() if place == name}
            data += sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    assert index["metadata"]["total_size"] == data
    order = list(read_header(tmp_path / "out" / "model-1.safetensors").tensors)
    assert order.index("lm_head.weight") == order.index("model.embed_tokens.weight") + 1


def test_a_pickled_base_becomes_safetensors(tmp_path: Path) -> None:
    case = fixture("peft021-pickled")
    merge([case.adapter], tmp_path / "out", case.base)
    assert not list((tmp_path / "out").glob("*.bin"))
    out, targeted = load_file(tmp_path / "out" / "model.safetensors"), {f"{m['name']}.weight" for m in case.modules}
    before = torch.load(case.base / "pytorch_model.bin", weights_only=True)
    assert targeted <= out.keys() <= before.keys()
    assert all(torch.equal(out[name], before[name]) for name in out.keys() - targeted)
    assert not any(torch.equal(out[name], before[name]) for name in targeted)
