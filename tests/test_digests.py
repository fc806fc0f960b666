"""A bit that flipped in an adapter whose file records its digests: every command that opens it names the tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from fixture_data import fixture
from safetensors.torch import load_file

import tinylora_tools as tl
from tinylora_tools.formats.digests import KEY
from tinylora_tools.formats.peft.keys import factor_key, vector_key
from tinylora_tools.formats.safetensors_file import read_header

Run = Callable[..., Any]
CASE = fixture("peft021-layers")
WHOLE = fixture("peft021-bias-all")
WEIGHTS = "adapter_model.safetensors"

#: Each command that opens an adapter, with its arguments: of the adapter, its base, and an output.
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "ADAPTER"),
    "merge": ("merge", "ADAPTER", "--base", "BASE", "-o", "OUT"),
    "merge, dry": ("merge", "ADAPTER", "--base", "BASE", "-o", "OUT", "--dry-run", "--json"),
    "convert lora": ("convert", "lora", "ADAPTER", "--base", "BASE", "-o", "OUT"),
    "convert peft": ("convert", "peft", "ADAPTER", "--base", "BASE", "-o", "OUT"),
    "convert packed": ("convert", "packed", "ADAPTER", "--base", "BASE", "-o", "OUT.safetensors"),
    "project": ("project", "ADAPTER", "--base", "BASE", "-o", "OUT"),
    "verify-base": ("verify-base", "ADAPTER", "--base", "BASE"),
    "verify-seed": ("verify-seed", "ADAPTER"),
    "verify-output": ("verify-output", "MERGED", "ADAPTER", "--base", "BASE"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with P and digests, and the model that it was merged into."""
    place = tmp_path_factory.mktemp("sound")
    tl.to_peft(CASE.adapter, place / "adapter", base=CASE.base, save_projection=True)
    tl.merge(place / "adapter", place / "merged", CASE.base, manifest=True)
    return place


def flipped(adapter: Path, tensor: str) -> None:
    path = adapter / WEIGHTS
    data, info = bytearray(path.read_bytes()), read_header(path).tensors[tensor]
    data[info.start + info.nbytes // 2] ^= 1  # the lowest bit of a mantissa: too little for anything else to tell
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["A", "B", "P", "v"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_flipped_bit_is_named(command: str, part: str, sound: Path, tmp_path: Path, tinylora: Run) -> None:
    adapter = Path(shutil.copytree(sound / "adapter", tmp_path / "adapter"))
    tensor = vector_key(0) if part == "v" else factor_key(CASE.modules[1]["name"], part)
    places = {
        "ADAPTER": adapter, "BASE": CASE.base, "OUT": tmp_path / "out", "MERGED": sound / "merged",
        "OUT.safetensors": tmp_path / "out.safetensors",
    }  # fmt: skip
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    result = tinylora(*arguments)
    assert (result.code, "recorded" in result.err) == (0, False), result
    for written in tmp_path.glob("out*"):
        shutil.rmtree(written) if written.is_dir() else written.unlink()
    flipped(adapter, tensor)
    result = tinylora(*arguments)
    assert result.code == 1
    assert f"{tensor}: its bytes aren't those that were recorded when the file was written" in result.err
    assert not list(tmp_path.glob("out*"))


def test_no_flipped_bit_anywhere_gives_another_result(tmp_path: Path) -> None:
    """In the data it is an error; in the header it is one, or harmless, as in the name of the entry itself."""
    case, rng = fixture("peft020-tiny"), np.random.default_rng(0)
    adapter, out = tmp_path / "adapter", tmp_path / "lora"
    tl.to_peft(case.adapter, adapter, base=case.base, save_projection=True)

    def result() -> bytes:
        tl.to_lora(adapter, out, base=case.base, force=True)
        return (out / WEIGHTS).read_bytes()

    sound, good = (adapter / WEIGHTS).read_bytes(), result()
    start = 8 + int.from_bytes(sound[:8], "little")
    for at in [*rng.integers(0, start, 60), *rng.integers(start, len(sound), 60)]:
        data = bytearray(sound)
        data[at] ^= 1 << int(rng.integers(8))
        (adapter / WEIGHTS).write_bytes(data)
        try:
            assert (result() == good, at < start) == (True, True), at
        except tl.TinyLoraError:
            continue


def test_a_head_that_is_copied_is_compared_too(tmp_path: Path, tinylora: Run) -> None:
    """Which a merge copies as bytes, without looking at them."""
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    tl.to_peft(WHOLE.adapter, adapter, base=WHOLE.base)
    tensor = next(name for name in read_header(adapter / WEIGHTS).tensors if ".base_layer.bias" in name)
    flipped(adapter, tensor)
    result = tinylora("merge", adapter, "--base", WHOLE.base, "-o", out)
    assert (result.code, f"{tensor}: its bytes aren't those" in result.err, out.exists()) == (1, True, False)


@pytest.mark.parametrize("write", ["to_peft", "project"])
def test_who_writes_an_adapter_anew_records_it_anew(write: str, sound: Path, tmp_path: Path) -> None:
    """P comes in, goes out, and what was recorded of the old file never stays."""
    without = tmp_path / "without"
    tl.to_peft(sound / "adapter", without, base=CASE.base, save_projection=False)
    getattr(tl, write)(
        without, tmp_path / "with", base=CASE.base, **({} if write == "project" else {"save_projection": True})
    )
    for adapter in (without, tmp_path / "with"):
        file = read_header(adapter / WEIGHTS)
        assert json.loads(file.metadata[KEY])["tensors"].keys() == file.tensors.keys()
        assert tl.inspect(adapter).digests == len(file.tensors)
    assert (without / WEIGHTS).read_bytes() != (sound / "adapter" / WEIGHTS).read_bytes()
    assert (tmp_path / "with" / WEIGHTS).read_bytes() == (sound / "adapter" / WEIGHTS).read_bytes()


def test_what_comes_out_of_a_packed_file_is_recorded(tmp_path: Path) -> None:
    tl.pack(CASE.adapter, tmp_path / "p.safetensors", base=CASE.base)
    tl.to_peft(tmp_path / "p.safetensors", tmp_path / "restored", base=CASE.base)
    assert tl.inspect(tmp_path / "restored").digests == len(read_header(tmp_path / "restored" / WEIGHTS).tensors)
    assert tl.inspect(CASE.adapter).digests is None


def test_a_bit_of_a_packed_v_that_flipped_is_told_by_inspect(tmp_path: Path, tinylora: Run) -> None:
    path = tmp_path / "p.safetensors"
    tl.pack(CASE.adapter, path, base=CASE.base)
    data, info = bytearray(path.read_bytes()), read_header(path).tensors["v.0"]
    data[info.start] ^= 1
    path.write_bytes(data)
    result = tinylora("inspect", path)
    assert (result.code, "what it holds isn't what was packed" in result.err) == (1, True)


def test_digests_are_left_out_where_nobody_wants_them(sound: Path, tmp_path: Path, tinylora: Run) -> None:
    """Those of the file that was read too, and the tensors' bytes are the same."""
    for adapter, name in ((CASE.adapter, "a"), (sound / "adapter", "b")):
        assert tinylora("convert", "peft", adapter, "-o", tmp_path / name, "--no-digests").code == 0
        assert tl.inspect(tmp_path / name).digests is None
    with_, without = (path / WEIGHTS for path in (sound / "adapter", tmp_path / "b"))
    assert read_header(without).metadata == {
        name: text for name, text in read_header(with_).metadata.items() if name != KEY
    }
    data = [path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :] for path in (with_, without)]
    assert data[0] == data[1]


@pytest.mark.filterwarnings("ignore")
def test_peft_loads_such_files_and_drops_the_entry(sound: Path, tmp_path: Path) -> None:
    """So what PEFT saves after training never has the digests of what it was trained from."""
    model = transformers.AutoModelForCausalLM.from_pretrained(CASE.base)
    loaded = peft.PeftModel.from_pretrained(model, sound / "adapter", is_trainable=True)
    state, own = peft.get_peft_model_state_dict(loaded), load_file(sound / "adapter" / WEIGHTS)
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key].float(), state[key].float()) for key in own)
    with torch.no_grad():
        next(p for n, p in loaded.named_parameters() if "tinylora_v" in n).add_(1)
    loaded.save_pretrained(tmp_path / "trained")
    assert read_header(tmp_path / "trained" / WEIGHTS).metadata == {"format": "pt"}
    assert tl.merge(tmp_path / "trained", tmp_path / "out", CASE.base).modules_merged
