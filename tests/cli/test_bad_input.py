"""Whatever is wrong with the input: a message that says what, where and what to do, exit 1, and nothing written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fixture_data import FIXTURES, fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.errors import OutputError
from tinylora_tools.formats.packed import content_mark
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.output.staging import check_output

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def refused(tinylora: Run, tmp_path: Path) -> Callable[..., str]:
    """Merge, expect a refusal, and check what every refusal promises; returns the message in one line."""

    def check(adapter: Path, base: Path, *options: str) -> str:
        before = snapshot(tmp_path / "in")
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "out" / "merged", *options)
        assert result.code == 1, result
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
        assert snapshot(tmp_path / "in") == before
        return " ".join(result.err.split())

    return check


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a safetensors file in place."""
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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


def test_unmatched_key(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    edit(adapter / "adapter_model.safetensors", lambda t: t.update({"surprise": np.zeros(3, np.float32)}))
    assert "surprise: no PEFT release writes this key" in refused(adapter, base)
    adapter_two = adapter / "adapter_model.safetensors"
    edit(
        adapter_two, lambda t: (t.pop("surprise"), t.update({"base_model.model.lost.weight": np.zeros(3, np.float32)}))
    )
    assert "no tensor for lost.weight" in refused(adapter, base)


def test_module_that_the_base_lacks(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    edit(base / "model.safetensors", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    message = refused(adapter, base)
    assert "no tensor for model.layers.1.mlp.up_proj.weight" in message
    assert "Is this the base" in message


def test_shapes_and_ranks_that_disagree(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft021-bias-all")
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    key = "base_model.model.model.layers.0.self_attn.q_proj.tinylora_"
    edit(
        base / "model.safetensors",
        lambda t: t.update({"model.layers.0.mlp.up_proj.weight": np.zeros((47, 32), np.float32)}),
    )
    assert "factors are for a weight of shape (48, 32), model.layers.0.mlp.up_proj.weight is (47, 32)" in refused(
        adapter, base
    )
    for part, shape, message in (
        ("A", (3, 32), "A is (3, 32) and B is (32, 2)"),
        ("B", (32,), "B is (32,)"),
        ("P", (3, 2, 3), "P is (3, 2, 3) but A says r=2"),
        ("P", (4, 2, 2), "P is (4, 2, 2), but adapter_config.json says u=3"),
    ):
        weights.write_bytes(whole)
        edit(weights, lambda t, part=part, shape=shape: t.update({key + part: np.ones(shape, np.float32)}))
        assert message in refused(adapter, base)
    weights.write_bytes(whole)
    edit(weights, lambda t: t.pop(key + "B"))
    assert "tinylora_B missing" in refused(adapter, base)
    weights.write_bytes(whole)
    edit_json(adapter / "adapter_config.json", r=4)
    assert "A has rank 2, but adapter_config.json says r=4" in refused(adapter, base)
    edit_json(adapter / "adapter_config.json", r=2, u="3")
    assert "u is '3', expected an integer" in refused(adapter, base)
    edit_json(adapter / "adapter_config.json", u=3, peft_type="LORA")
    assert "peft_type is 'LORA'" in refused(adapter, base)


def test_groups_that_do_not_fit(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft019-shared")
    edit_json(adapter / "adapter_config.json", weight_tying=0.25)
    message = refused(adapter, base)
    assert "weight_tying 0.25" in message
    assert "--module-order" in message


def test_wrong_base(copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    rng = np.random.default_rng(0)

    def randomise(tensors: dict[str, Any]) -> None:
        for name, values in tensors.items():
            if values.ndim == 2:
                tensors[name] = rng.standard_normal(values.shape).astype(np.float32)

    edit(base / "model.safetensors", randomise)
    message = refused(adapter, base)
    assert "don't belong to this weight" in message
    assert "--no-verify-base" in message
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", "--no-verify-base").code == 0


def test_moved_base_is_a_warning(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    rng = np.random.default_rng(0)

    def move(tensors: dict[str, Any]) -> None:
        for name, values in tensors.items():
            if values.ndim == 2:
                noise = rng.standard_normal(values.shape) * np.std(values) * 0.05
                tensors[name] = (values + noise).astype(np.float32)

    edit(base / "model.safetensors", move)
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o")
    assert result.code == 0
    assert "have changed since the adapter's factors were computed" in result.err


def test_quantized_bases(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    for settings, name in (({"quant_method": "gptq", "bits": 4}, "gptq"), ({"load_in_4bit": True}, "bitsandbytes")):
        edit_json(base / "config.json", quantization_config=settings)
        assert f"quantized ({name})" in refused(adapter, base)
    config = json.loads((base / "config.json").read_text())
    del config["quantization_config"]
    (base / "config.json").write_text(json.dumps(config))
    name = "model.layers.0.self_attn.q_proj.weight"
    edit(base / "model.safetensors", lambda t: t.update({name: t[name].astype(np.int8)}))
    assert f"{name} is stored as I8" in refused(adapter, base)


def test_fused_experts(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft019-experts")

    def fuse(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            del tensors[name]
        tensors["model.layers.0.block_sparse_moe.experts.gate_up_proj"] = np.zeros((4, 96, 32), ml_dtypes.bfloat16)

    edit(base / "model.safetensors", fuse)
    assert "experts fused in one tensor" in refused(adapter, base)


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


def test_scales_that_are_no_scales(copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    for scale in ("inf", "-inf", "nan"):
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", f"--scale={scale}")
        assert (result.code, f"'{scale}' is not a finite number" in result.err) == (2, True), result
        result = tinylora("convert", "lora", adapter, "-o", tmp_path / "o", f"--scale={scale}")
        assert (result.code, f"'{scale}' is not a finite number" in result.err) == (2, True), result
    edit(adapter / "adapter_model.safetensors", lambda t: [t[k].fill(9.0) for k in t if "tinylora_v" in k])
    for scale in ("1e300", "1.7e308"):  # NumPy's warnings would be errors here
        assert "the result holds NaN or Inf" in refused(adapter, base, f"--scale={scale}")
        result = tinylora("convert", "lora", adapter, "-o", tmp_path / "o", f"--scale={scale}")
        assert (result.code, "its factors " in result.err) == (1, True), result


def test_a_device_without_memory(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    assert "device 'meta' isn't usable here" in refused(adapter, base, "--device", "meta")


def test_overflow_of_float16(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft020-tiny")
    edit(base / "model.safetensors", lambda t: t["model.norm.weight"].fill(1e6))
    message = refused(adapter, base, "--dtype", "float16")
    assert "model.norm.weight" in message
    assert "overflows float16" in message


def test_no_space(copied: Copied, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("posix_fallocate", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert "no space left" in refused(adapter, base)
    usage = __import__("collections").namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 90, 10))
    assert "has 10 left" in refused(adapter, base)


def test_outputs_that_may_not_be_written(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    before = snapshot(tmp_path)
    (tmp_path / "file").write_text("keep me")
    for output, message in (
        (base, "the output is the input"),
        (base / "merged", "lies inside the input"),
        (adapter / "merged", "lies inside the input"),
        (tmp_path / "in", "holds the input"),
        (tmp_path / "file", "exists already"),
    ):
        result = tinylora("merge", adapter, "--base", base, "-o", output)
        assert (result.code, message in result.err) == (1, True), result
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "file", "--force")
    assert "no model's directory" in result.err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "notes", "--force")
    assert (result.code, "no model's directory" in result.err) == (1, True)
    assert {k: v for k, v in snapshot(tmp_path).items() if not k.startswith(("file", "notes"))} == before


def test_force_never_replaces_an_input(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    """Neither one whose place a temporary directory takes, nor one that is named by a file in it, nor the base."""
    adapter, base = copied("peft021-13-numbers")
    (tmp_path / "in" / "packed").mkdir()
    packed, weights = tmp_path / "in" / "packed" / "adapter.safetensors", adapter / "adapter_model.safetensors"
    assert tinylora("convert", "packed", adapter, "-o", packed, "--base", base).code == 0
    before = snapshot(tmp_path)
    for arguments, output, relation in (
        (("merge", packed), packed.parent, "holds the input"),
        (
            (
                "convert",
                "peft",
                packed,
            ),
            packed.parent,
            "holds the input",
        ),
        (
            (
                "convert",
                "lora",
                packed,
            ),
            base,
            "is the input",
        ),
        (
            (
                "convert",
                "peft",
                adapter,
            ),
            base,
            "is the input",
        ),
        (
            (
                "convert",
                "packed",
                adapter,
            ),
            weights,
            "lies inside the input",
        ),
        (
            (
                "convert",
                "packed",
                packed,
            ),
            packed,
            "is the input",
        ),
        (("merge", weights), adapter, "is the input"),
        (("merge", weights), adapter / "out", "lies inside the input"),
        (("project", adapter), base, "is the input"),
    ):
        result = tinylora(*arguments, "--base", base, "-o", output, "--force")
        assert (result.code, relation in result.err) == (1, True), (arguments, result)
    assert snapshot(tmp_path) == before
    assert tinylora("merge", packed, "--base", base, "-o", packed.parent / "out").code == 0  # beside it there is room
    assert tinylora("convert", "packed", adapter, "-o", adapter / "new.safetensors", "--base", base).code == 0


def test_force_never_replaces_a_base_that_only_the_adapter_names(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    packed = tmp_path / "in" / "packed" / "p.safetensors"  # from there, ../base is the base too
    assert tinylora("convert", "packed", adapter, "-o", packed, "--base", base).code == 0
    before = snapshot(tmp_path)
    for arguments in (
        (
            "convert",
            "peft",
            adapter,
        ),
        (
            "convert",
            "lora",
            adapter,
        ),
        (
            "convert",
            "peft",
            packed,
        ),
        ("project", adapter),
    ):
        result = tinylora(*arguments, "-o", base, "--force")
        assert (result.code, "is the input" in result.err) == (1, True), (arguments, result)
    assert snapshot(tmp_path) == before
    assert tinylora("convert", "peft", adapter, "-o", tmp_path / "out").code == 0


def test_names_that_nothing_would_read_a_file_by(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    for arguments in (("factor", base), ("convert", "packed", adapter, "--base", base)):
        result = tinylora(*arguments, "-o", tmp_path / "p.bin")
        assert (result.code, result.out) == (1, "")
        assert "p.bin: expected the ending .safetensors" in " ".join(result.err.split())
        assert "Name it p.bin.safetensors" in result.err
    assert not list(tmp_path.glob("*p.bin*"))


def test_outputs_without_a_place(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    (tmp_path / "file").write_text("keep me")
    (tmp_path / ".full.tinylora-partial").write_text("keep me")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").write_text("years of work")
    for name in ("linked", "linked.safetensors"):
        (tmp_path / f".{name}.tinylora-partial").symlink_to(tmp_path / "kept")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = snapshot(tmp_path)
    for name, message in (
        ("file/out", f"{tmp_path / 'file'} is in the way"),
        ("file/deep/out", "can't be written (Not a directory)"),
        ("full", ".full.tinylora-partial is in the way"),
        ("linked", ".linked.tinylora-partial is in the way"),
        ("x" * 300, "can't be written (File name too long)"),
        ("x" * 245, "can't be written (File name too long)"),
        ("loop", "is a symbolic link"),
        ("link", "is a symbolic link"),
    ):
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / name)
        assert (result.code, message in result.err, "  next: " in result.err) == (1, True, True), result
    result = tinylora("factor", base, "--target-modules", "q_proj", "-o", tmp_path / "linked.safetensors")
    assert (result.code, ".linked.safetensors.tinylora-partial is in the way" in result.err) == (1, True), result
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("denied", ["base/sub", "out"])
def test_an_input_is_not_taken_for_the_output(
    copied: Copied, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, denied: str
) -> None:
    adapter, base = copied("peft020-tiny")
    (base / "sub").mkdir()
    real = Path.iterdir

    def iterdir(self: Path) -> Any:
        if str(self).endswith(denied):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    if denied == "out":
        (tmp_path / "out").mkdir()
        with pytest.raises(OutputError, match=r"out: can't be written \(Permission denied\)"):
            check_output(tmp_path / "out", force=False, inputs=[])
    else:
        assert f"{base / 'sub'}: can't be used (Permission denied)" in refused(adapter, base)


def test_force_replaces_a_model_only_with_a_whole_one(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    out = tmp_path / "out"
    assert tinylora("merge", adapter, "--base", base, "-o", out).code == 0
    assert tinylora("merge", adapter, "--base", base, "-o", out).code == 1
    before = snapshot(out)
    edit(adapter / "adapter_model.safetensors", lambda t: t["base_model.tinylora_v.0"].fill(np.nan))
    assert tinylora("merge", adapter, "--base", base, "-o", out, "--force").code == 1
    assert snapshot(out) == before
    edit(adapter / "adapter_model.safetensors", lambda t: t["base_model.tinylora_v.0"].fill(0.5))
    assert tinylora("merge", adapter, "--base", base, "-o", out, "--force").code == 0
    assert snapshot(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_paths_that_are_not_there(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    for arguments in (
        ("inspect", "nowhere"),
        ("merge", "nowhere", "-o", tmp_path / "o"),
        ("merge", case.adapter, "--base", "nowhere", "-o", tmp_path / "o"),
        ("merge", case.adapter, "--base", case.base, "--module-order", "nowhere", "-o", tmp_path / "o"),
    ):
        result = tinylora(*arguments)
        assert (result.code, "no such file or directory" in result.err) == (1, True), result
    assert "hf://some/model" in tinylora("inspect", "some/model").err


def test_directories_that_hold_nothing(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    (tmp_path / "empty").mkdir()
    result = tinylora("merge", case.adapter, "--base", tmp_path / "empty", "-o", tmp_path / "o")
    assert (result.code, "no checkpoint here" in result.err) == (1, True)
    result = tinylora("merge", tmp_path / "empty", "--base", case.base, "-o", tmp_path / "o")
    assert (result.code, "no adapter here" in result.err) == (1, True)
    result = tinylora("inspect", tmp_path / "empty")
    assert (result.code, "neither an adapter nor a checkpoint" in result.err) == (1, True)
    result = tinylora("merge", case.merged, "--base", case.base, "-o", tmp_path / "o")
    assert result.code == 1


def test_unknown_architecture(copied: Copied, refused: Callable[..., str], tinylora: Run, tmp_path: Path) -> None:
    """Seed-only: refused with the way out, which then gives the very same bytes, square weights included."""
    adapter, base = copied("peft021-13-numbers")
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "expected").code == 0
    edit_json(base / "config.json", model_type="nobody", architectures=["NobodyForCausalLM"])
    edit_json(adapter / "adapter_config.json", auto_mapping=None)
    assert "--module-order FILE" in refused(adapter, base)
    order = tmp_path / "order.txt"
    order.write_text("# in order\n" + "\n".join(row["name"] for row in fixture("peft021-13-numbers").modules) + "\n")
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", "--module-order", order)
    assert result.code == 0, result
    name = "model.safetensors"
    assert (tmp_path / "o" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    order.write_text("model.layers.0.self_attn.q_proj\n")
    assert "--module-order doesn't name" in refused(adapter, base, "--module-order", str(order))
    order.write_text("a\na\n")
    assert "names a twice" in refused(adapter, base, "--module-order", str(order))


def test_unknown_architecture_with_stored_p(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    """The seeds of the stored P tell the order."""
    for name in ("peft021-layers", "peft020-gpt2"):
        adapter, base = (path for path in copied(name))
        assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / name, "--tied", "share").code == 0
        edit_json(base / "config.json", model_type="nobody", architectures=["NobodyForCausalLM"])
        if name == "peft021-layers":
            result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / f"{name}-2")
            assert result.code == 0, result
            first, second = (tmp_path / n / "model.safetensors" for n in (name, f"{name}-2"))
            assert first.read_bytes() == second.read_bytes()
        else:  # nothing says which tensor holds lm_head
            result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / f"{name}-2")
            assert (result.code, "no tensor for lm_head.weight" in result.err) == (1, True), result
        __import__("shutil").rmtree(tmp_path / "in")


def test_ties_that_cannot_be_undone(copied: Copied, refused: Callable[..., str]) -> None:
    adapter, base = copied("peft021-t5")
    config = json.loads((adapter / "adapter_config.json").read_text())
    source = load_file(adapter / "adapter_model.safetensors")
    embed = load_file(base / "model.safetensors")["shared.weight"]
    U, S, Vh = np.linalg.svd(embed, full_matrices=False)
    prefix = "base_model.model.shared.tinylora_"
    source |= {
        prefix + "A": (np.sqrt(S[:2, None]) * Vh[:2]).astype(np.float32),
        prefix + "B": np.ascontiguousarray(U[:, :2] * np.sqrt(S[:2])).astype(np.float32),
        prefix + "P": np.ones((config["u"], 2, 2), np.float32),
    }
    for key in [key for key in source if "tinylora_v" in key]:
        del source[key]
    source["base_model.tinylora_v.0"] = np.ones(config["u"], np.float32)
    save_file(source, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    edit_json(adapter / "adapter_config.json", weight_tying=1.0)
    message = refused(adapter, base)
    assert "can't hold apart" in message
    assert "--tied share" in message


def test_pickles_are_not_run(copied: Copied, refused: Callable[..., str], tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/exploded",)

    adapter, base = copied("peft021-pickled")
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"a": Bomb()}))
    assert "read safely" in refused(adapter, base)
    assert not (tmp_path / "exploded").exists()


def test_wrong_usage_is_2(tinylora: Run) -> None:
    assert tinylora("merge").code == 2
    assert tinylora("nothing").code == 2
    adapter = fixture("peft020-tiny").adapter
    assert tinylora("merge", adapter, "-o", "x", "--scale", "1", "--scale", "2").code == 2
    assert tinylora("merge", adapter, "-o", "x", "--dtype", "int8").code == 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_leave_nothing(tmp_path: Path, kind: signal.Signals, code: int, threads: int) -> None:
    """Killed in the middle of writing: its exit code, and nothing under the output's name or beside it."""
    case = fixture("peft020-tiny")
    slow = (
        "import time, sys; from tinylora_tools.ops.merge import write as w; from tinylora_tools.cli import main\n"
        "real = w.TensorJob.run\n"
        "def slow(self, *a):\n    time.sleep(0.2); return real(self, *a)\n"
        "w.TensorJob.run = slow; sys.argv[0] = 'tinylora'; main()"
    )
    command = [
        sys.executable,
        "-c",
        slow,
        "merge",
        case.adapter,
        "--base",
        case.base,
        "-o",
        tmp_path / "o",
        "--threads",
        threads,
    ]
    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".o.tinylora-partial/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(kind)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_of_the_imports_is_quiet() -> None:
    interrupt = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt()); import tinylora_tools.cli"
    )
    done = subprocess.run([sys.executable, "-c", interrupt], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_killed_run_is_cleared_by_the_next(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    partial = tmp_path / ".o.tinylora-partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    (partial / "leftover.bin").write_bytes(b"half")
    assert tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o").code == 0
    assert not partial.exists()
    assert not (tmp_path / "o" / "leftover.bin").exists()


def test_two_runs_do_not_mix(tinylora: Run, tmp_path: Path) -> None:
    import fcntl

    case = fixture("peft020-tiny")
    partial = tmp_path / ".o.tinylora-partial"
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    result = tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o")
    os.close(lock)
    assert (result.code, "another run is writing" in result.err) == (1, True)
    assert partial.exists()


def test_the_lost_seed_is_named(tinylora: Run, tmp_path: Path) -> None:
    case = next(case for case in FIXTURES if case.name == "peft019-seed-only")
    result = tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o")
    assert (result.code, "PEFT 0.19.1 drew P from a seed" in result.err) == (1, True)
    assert "save_projection=True" in result.err


@pytest.mark.parametrize(
    "denied", ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "base/model.safetensors"]
)
def test_files_that_may_not_be_read(
    copied: Copied, tinylora: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, denied: str
) -> None:
    """Root may read everything, so the system's answer is made up."""
    adapter, base = copied("peft020-tiny")
    path, real = adapter.parent / denied, Path.open

    def deny(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", deny)
    for arguments in (("merge", adapter, "--base", base, "-o", tmp_path / "o"), ("inspect", path.parent)):
        result = tinylora(*arguments)
        assert (result.code, f"{path}: can't be used (Permission denied)" in result.err) == (1, True), result


def test_a_pickle_that_may_not_be_read(tinylora: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("torch.load", deny)
    result = tinylora("inspect", fixture("peft021-pickled").adapter)
    assert (result.code, "adapter_model.bin: can't be used (Permission denied)" in result.err) == (1, True), result


def test_paths_that_no_file_can_have(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    long = "x" * 300
    for arguments in (("inspect", long), ("merge", long, "-o", "o"), ("merge", adapter, "--base", long, "-o", "o")):
        result = tinylora(*arguments)
        assert (result.code, f"{long}: can't be used (File name too long)" in result.err) == (1, True), result
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", "--module-order", base)
    assert (result.code, f"{base}: can't be used (Is a directory)" in result.err) == (1, True), result
    assert "no such file or directory" in tinylora("inspect", "~nobody-here/adapter").err
    for name in (
        long,
        "~nobody-here/base",
        "./base",
    ):  # what another machine calls its base is no fault of the adapter's
        edit_json(adapter / "adapter_config.json", base_model_name_or_path=name)
        assert tinylora("inspect", adapter).code == 0
        assert "isn't at hand" in tinylora("merge", adapter, "-o", tmp_path / "o").err
