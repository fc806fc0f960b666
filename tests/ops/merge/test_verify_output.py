"""A merged model is as it was recorded, and as base and adapters give it again; or what differs has a name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import edit, edit_json, snapshot
from safetensors.numpy import load_file

from tinylora_tools import load_adapter, merge, pack, verify_output
from tinylora_tools.errors import FormatError, MismatchError, TinyLoraError, UndeterminedError
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.output.manifest import NAME

#: Untied, sharded and drawn, pickled, Conv1D, with biases.
NAMES = ["peft021-lm-head", "peft020-seed-only", "peft021-pickled", "peft020-gpt2", "peft021-bias-all"]


def merged(copied: Callable[[str], tuple[Path, Path]], out: Path, name: str, **how: Any) -> tuple[Path, Path]:
    adapter, base = copied(name)
    merge(adapter, out, base, manifest=True, **how)
    return adapter, base


def flip(path: Path, at: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def differences(*arguments: Any, **how: Any) -> list[tuple[str, str, str]]:
    report = verify_output(*arguments, **how)
    assert report.ok == (not report.differences)
    return [(one.part, one.name, one.what) for one in report.differences]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_merged_is_as_recorded_and_formed_again(
    name: str, copied: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    adapter, base = merged(copied, out, name, scale=0.5)
    alone, whole = verify_output(out), verify_output(out, adapter, base, threads=3)
    assert (alone.ok, alone.base, alone.adapters, alone.recomputed) == (True, False, False, 0)
    assert (whole.ok, whole.base, whole.adapters, whole.warnings) == (True, True, True, [])
    assert whole.recomputed == whole.tensors == sum(len(load_file_names(path)) for path in out.glob("*.safetensors"))
    assert verify_output(out, adapter, base, sample=3).recomputed == 3
    assert whole.files == len(snapshot(out)) - 1


def load_file_names(path: Path) -> list[str]:
    return list(read_header(path).tensors)


def test_a_manifest_changes_nothing_else_and_names_no_path(
    copied: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    adapter, base = merged(copied, tmp_path / "with", "peft021-layers")
    merge(adapter, tmp_path / "without", base)
    with_it = snapshot(tmp_path / "with")
    assert str(tmp_path) not in with_it.pop(NAME).decode()
    assert with_it == snapshot(tmp_path / "without")
    merge(adapter, tmp_path / "next", tmp_path / "with", verify_base=False)  # as a base, it brings no manifest along
    assert NAME not in snapshot(tmp_path / "next")


@pytest.mark.parametrize("name", ["peft021-layers", "peft020-seed-only"])
def test_a_flipped_bit_has_a_name(name: str, copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """In result, base and adapter: the file's, and the tensor's."""
    out = tmp_path / "out"
    adapter, base = merged(copied, out, name)
    for part, directory in (("output", out), ("base", base), ("adapter", adapter)):
        for path in sorted(directory.glob("*.safetensors")):
            infos = list(read_header(path).tensors.values())
            whole = path.read_bytes()
            for info in (infos[0], infos[len(infos) // 2], infos[-1]):
                flip(path, info.end - 1)
                found = differences(out, adapter, base)
                path.write_bytes(whole)
                changed = [(part, path.name, "this file was changed"), (part, info.name, "this tensor was changed")]
                assert found == changed
    assert differences(out, adapter, base) == []


def test_texts_and_headers_are_files_too(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    adapter, base = merged(copied, out, "peft021-layers")
    edit_json(out / "config.json", vocab_size=7)
    (out / "more.txt").touch()
    (out / "README.md").unlink()
    assert differences(out) == [
        ("output", "README.md", "this file is missing"),
        ("output", "config.json", "this file was changed"),
        ("output", "more.txt", "this file wasn't there"),
    ]
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole.replace(b'"format":"pt"', b'"format":"tf"', 1))
    assert ("output", "model.safetensors", "this file was changed") in differences(out)
    assert not any(what.startswith("this tensor") for _, _, what in differences(out))
    (out / "model.safetensors").write_bytes(whole[:-1])
    assert any("its tensors can't be read" in what for _, _, what in differences(out))
    edit_json(adapter / "adapter_config.json", inference_mode=False)
    edit_json(base / "config.json", vocab_size=7)
    found = [one for one in differences(out, adapter, base) if one[0] != "output"]
    assert found == [
        ("base", "config.json", "this file was changed"),
        ("adapter", "adapter_config.json", "this file was changed"),
    ]
    assert verify_output(out, adapter, base).warnings == [
        "nothing was formed again: the base or an adapter isn't what was merged"
    ]


def test_a_manifest_that_lies_is_found_by_forming_it_again(
    copied: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Result and manifest changed together: only base and adapter can tell."""
    out = tmp_path / "out"
    adapter, base = merged(copied, out, "peft021-layers")
    target = "model.layers.1.mlp.up_proj.weight"
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    edit(changed / "model.safetensors", lambda tensors: tensors[target].__setitem__((0, 0), np.float32(0.125)))
    merge(adapter, tmp_path / "other", changed, manifest=True)
    lie = json.loads((tmp_path / "other" / NAME).read_text())
    truth = json.loads((out / NAME).read_text())
    (tmp_path / "other" / NAME).write_text(json.dumps({**lie, "base": truth["base"]}))
    assert differences(tmp_path / "other") == []
    what = "base and adapters give another tensor than was recorded"
    assert differences(tmp_path / "other", adapter, base) == [("output", target, what)]


def swap(path: Path, one: str, other: str) -> None:
    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if one in name and not name.endswith("_P")]:
            twin = name.replace(one, other)
            tensors[name], tensors[twin] = tensors[twin].copy(), tensors[name].copy()

    edit(path, change)


def test_layers_that_change_places(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """Before a merge, where the factors can tell: in the base, or the adapter's factors. Vectors tell nothing of where
    they belong; after it, the manifest tells of all."""
    adapter, base = copied("peft021-layers")
    weights, of_base = adapter / "adapter_model.safetensors", base / "model.safetensors"
    sound = weights.read_bytes(), of_base.read_bytes()
    merge(adapter, tmp_path / "out", base, manifest=True)
    groups = sorted(name for name in load_file(weights) if ".tinylora_v." in name)
    for path, one, other, told in (
        (of_base, "layers.10.self_attn", "layers.11.self_attn", True),
        (weights, "layers.10.self_attn", "layers.11.self_attn", True),
        (of_base, "layers.10.input_layernorm", "layers.11.input_layernorm", False),
        (weights, groups[0], groups[1], False),
    ):
        swap(path, one, other)
        if told:
            with pytest.raises(MismatchError, match="the adapter's factors don't belong to this weight"):
                merge(adapter, tmp_path / "no", base)
        else:
            merge(adapter, tmp_path / "no", base, force=True)
        assert differences(tmp_path / "out", adapter, base) != []
        weights.write_bytes(sound[0])
        of_base.write_bytes(sound[1])


def test_a_packed_adapter_is_told_by_its_file(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    adapter, base = copied("peft021-layers")
    packed = tmp_path / "packed.safetensors"
    pack(adapter, packed, base=base)
    merge(packed, tmp_path / "out", base, manifest=True)
    assert verify_output(tmp_path / "out", packed, base).ok
    merge(adapter, tmp_path / "other", base, manifest=True)
    assert not verify_output(tmp_path / "other", packed, base).ok


def test_adapters_and_settings_have_to_be_those(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    adapter, base = merged(copied, out, "peft021-layers")
    with pytest.raises(MismatchError, match="1 adapters were merged, and 2 are named"):
        verify_output(out, [adapter, adapter], base)
    assert verify_output(out, load_adapter(adapter), base).ok
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    edit_json(moved / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(UndeterminedError, match="the base isn't at hand"):
        verify_output(out, moved)
    sound = json.loads((out / NAME).read_text())["settings"]
    wrong: tuple[dict[str, Any], ...] = (
        {"scales": 1}, {"scales": ["1"]}, {"scales": [float("inf")]}, {"dtype": ["auto"]}, {"dtype": "int8"},
        {"tied": None}, {"stream": "x"}, {"module_order": "a"}, {"module_order": [1]}, {"release": 4}, {"new": 3},
    )  # fmt: skip
    for settings in ({}, *({**sound, **change} for change in wrong)):
        edit_json(out / NAME, settings=settings)
        with pytest.raises(FormatError, match="its settings aren't those of this release"):
            verify_output(out, adapter, base)
    with pytest.raises(TinyLoraError):
        verify_output(out, adapter, base, sample=0)
