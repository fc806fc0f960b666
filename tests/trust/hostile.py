"""Files that anybody may have made: where each goes, what reads it there, and what may come of that.

Each target takes the bytes of one file and runs commands on it. Success, or an error that is a message; anything else
is raised. Both the test beside this and `fuzz.py` give it bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from fixture_data import fixture

from tinylora_tools import TinyLoraConfig, merge, pack
from tinylora_tools.adapters.source import find_source
from tinylora_tools.bases.architectures.families import family
from tinylora_tools.cli import main
from tinylora_tools.errors import TinyLoraError
from tinylora_tools.formats import third_party
from tinylora_tools.formats.factors_file import read_factors
from tinylora_tools.formats.pickled.stored import load_pickle
from tinylora_tools.ops.factor import factor
from tinylora_tools.ops.verify.check import Check
from tinylora_tools.ops.verify.golden import compare
from tinylora_tools.output.manifest import NAME as MANIFEST
from tinylora_tools.sources.locate import locate

ONE, SHARDED, PICKLED = fixture("peft021-13-numbers"), fixture("peft020-seed-only"), fixture("peft021-pickled")
TIED = fixture("peft021-embedding")


class Target(NamedTuple):
    """A file: what is in it when nobody means harm, and who reads it, in a directory that is its own."""

    kind: str
    sound: Callable[[], bytes]
    run: Callable[[Path, bytes], None]


#: How commands ended.
codes: list[int] = []


def command(*words: object) -> None:
    """A command of which nothing but success or a message may come."""
    with mock.patch.object(sys, "argv", ["tinylora", *map(str, words)]):
        silence = io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            try:
                main()
            except SystemExit as end:
                assert end.code in (0, 1), (words, end.code, silence.getvalue())
                codes.append(end.code)


def accepted(call: Callable[[], object]) -> None:
    """A function of which nothing but success or a message may come."""
    with contextlib.suppress(TinyLoraError, OSError):
        call()


def copied(source: Path, target: Path) -> Path:
    if not target.exists():
        shutil.copytree(source, target)
    return target


def adapter_header(place: Path, data: bytes) -> None:
    adapter = copied(ONE.adapter, place / "adapter")
    (adapter / "adapter_model.safetensors").write_bytes(data)
    command("inspect", adapter, "--json")
    command("merge", adapter, "--base", ONE.base, "-o", place / "out", "--dry-run")


def base_header(place: Path, data: bytes) -> None:
    base = copied(ONE.base, place / "base")
    (base / "model.safetensors").write_bytes(data)
    command("inspect", base)
    command("merge", ONE.adapter, "--base", base, "-o", place / "out", "--dry-run")


def index(place: Path, data: bytes) -> None:
    base = copied(SHARDED.base, place / "base")
    (base / "model.safetensors.index.json").write_bytes(data)
    command("inspect", base, "--json")
    command("merge", SHARDED.adapter, "--base", base, "-o", place / "out", "--dry-run")


def base_config(place: Path, data: bytes) -> None:
    base = copied(ONE.base, place / "base")
    (base / "config.json").write_bytes(data)
    command("inspect", base, "--json")
    command("count", base, "--target-modules", "q_proj", "--json")
    command("merge", ONE.adapter, "--base", base, "-o", place / "out", "--dry-run")


def adapter_config(place: Path, data: bytes) -> None:
    adapter = copied(ONE.adapter, place / "adapter")
    (adapter / "adapter_config.json").write_bytes(data)
    command("inspect", adapter, "--json")
    command("merge", adapter, "--base", ONE.base, "-o", place / "out", "--dry-run")
    command("convert", "lora", adapter, "--base", ONE.base, "-o", place / "lora", "--force")


def module_order(place: Path, data: bytes) -> None:
    (place / "order").write_bytes(data)
    command("merge", SHARDED.adapter, "--base", SHARDED.base, "--module-order", place / "order", "-o", "x", "--dry-run")


@cache
def sound_packed() -> bytes:
    return _made(lambda path: pack(ONE.adapter, path, base=ONE.base))


@cache
def sound_factors() -> bytes:
    config = TinyLoraConfig(r=1, target_modules=("layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"))
    return _made(lambda path: factor(ONE.base, path, config))


def _made(make: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "made.safetensors"
        make(path)
        return path.read_bytes()


@cache
def sound_architecture() -> bytes:
    """Of ONE's base, with every entry that a description may have."""
    releases = json.loads(json.dumps((family("qwen2") or {})["releases"]))
    for release in releases.values():
        classes = {name: release["classes"][name] for name in ("Qwen2Model", "Qwen2ForCausalLM")}
        classes["Qwen2ForCausalLM"] |= {
            "stored": {"model.layers": "model.layers"},
            "older": {"model.layers.*.mlp": "model.layer.*.mlp"},
            "fused": ["model.layers.*.mlp.experts.down_proj"],
            "scales": {
                "lm_head": {"as": "buffer", "root_of": "hidden_size", "if": "scale_embedding", "default": False}
            },
            "float32": ["norm"],
            "float32_always": ["expert_*"],
        }
        release |= {"classes": classes, "inner": {"text_config.model_type": ["qwen2"]}}
    return json.dumps({"family": "qwen2", "releases": releases}).encode()


def architecture(place: Path, data: bytes) -> None:
    path = place / "architecture.json"
    path.write_bytes(data)
    for case in (ONE, TIED):
        command("merge", case.adapter, "--base", case.base, "--architecture", path, "-o", place / "out", "--dry-run")
    command("count", ONE.base, "--architecture", path, "--target-modules", "all-linear", "--json")
    command(
        "convert", "lora", TIED.adapter, "--base", TIED.base, "--architecture", path, "-o", place / "lora", "--force"
    )


def packed(place: Path, data: bytes) -> None:
    path = place / "packed.safetensors"
    path.write_bytes(data)
    command("inspect", path, "--json")
    command("merge", path, "--base", ONE.base, "-o", place / "out", "--dry-run")


def factors(place: Path, data: bytes) -> None:
    path = place / "factors.safetensors"
    path.write_bytes(data)
    accepted(lambda: read_factors(path))
    command("inspect", path)


def golden(place: Path, data: bytes) -> None:
    path = place / "golden.json"
    path.write_bytes(data)
    check = Check("torch", "cpu", "torch-cpu-avx2", True, True, 0, 0.0, "", "0" * 64)
    accepted(lambda: compare([check], path))


def manifest(place: Path, data: bytes) -> None:
    out = place / "out"
    if not out.exists():
        merge(ONE.adapter, out, ONE.base, manifest=True)
    (out / MANIFEST).write_bytes(data)
    command("verify-output", out, "--json")
    command("verify-output", out, ONE.adapter, "--base", ONE.base, "--sample", 1)


@cache
def sound_manifest() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        merge(ONE.adapter, Path(directory) / "out", ONE.base, manifest=True)
        return (Path(directory) / "out" / MANIFEST).read_bytes()


def _archive(pickle: bytes) -> bytes:
    """The archive of a sound adapter around another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(PICKLED.adapter / "adapter_model.bin") as sound, zipfile.ZipFile(buffer, "w") as archive:
        for name in sound.namelist():
            archive.writestr(name, pickle if name.endswith("data.pkl") else sound.read(name))
    return buffer.getvalue()


def pickled(place: Path, data: bytes) -> None:
    """A pickle in a sound archive."""
    path = place / "adapter_model.bin"
    path.write_bytes(_archive(data))
    command("inspect", path, "--json")


def archive(place: Path, data: bytes) -> None:
    path = place / "adapter_model.bin"
    path.write_bytes(data)
    command("inspect", path)


def legacy(place: Path, data: bytes) -> None:
    path = place / "x.pt"
    path.write_bytes(data)
    accepted(lambda: load_pickle(path))


def others(place: Path, data: bytes) -> None:
    """Third-party adapters: a JSON object of the same shape, saved by torch with tensors for its lists of numbers."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    for name in ("adapter.pt", "best_model.pt", "adapter_state.pt", "tinylora.pt"):
        try:
            torch.save(_with_tensors(content), place / name)
        except (RecursionError, UnicodeEncodeError):
            continue
        accepted(lambda name=name: _read_third_party(place / name))  # type: ignore[misc]
        (place / name).unlink()


def _read_third_party(path: Path) -> None:
    source = find_source(path, settings={})
    if isinstance(source.content, third_party.Found):
        third_party.read(source.content, {})


def _with_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tensors(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(type(one) is float and abs(one) < 1e30 for one in value):
        return torch.tensor(value)
    return [_with_tensors(one) for one in value] if isinstance(value, list) else value


def hub(place: Path, data: bytes) -> None:
    """What the Hub's client says when it fails, or hands over."""
    text = data.decode("utf-8", "replace")
    for error in (OSError(text), OSError(5, text), ValueError(text), KeyError(text), FileNotFoundError(2, text, text)):
        asked = mock.patch("huggingface_hub.HfApi.model_info", side_effect=error)
        silent = mock.patch("tinylora_tools.sources.locate.look", return_value=None)
        for before in (asked, silent):
            with before, mock.patch("huggingface_hub.snapshot_download", side_effect=error):
                try:
                    locate("hf://owner/name")
                except TinyLoraError as said:
                    assert "\n" not in said.what
    accepted(lambda: locate(f"hf://{text}") if "/" not in text else None)


_JSON_OF_OTHERS = {
    "v_0": [0.5, 1.0],
    "v_1": [1.5, 2.0],
    "v": {"a.v": [0.5]},
    "a.v": [1.0],
    "config": {"rank": 2, "u": 3},
}

TARGETS: dict[str, Target] = {
    "adapter_header": Target("safetensors", (ONE.adapter / "adapter_model.safetensors").read_bytes, adapter_header),
    "base_header": Target("safetensors", (ONE.base / "model.safetensors").read_bytes, base_header),
    "index": Target("json", (SHARDED.base / "model.safetensors.index.json").read_bytes, index),
    "base_config": Target("json", (ONE.base / "config.json").read_bytes, base_config),
    "adapter_config": Target("json", (ONE.adapter / "adapter_config.json").read_bytes, adapter_config),
    "architecture": Target("json", sound_architecture, architecture),
    "packed": Target("safetensors", sound_packed, packed),
    "factors": Target("safetensors", sound_factors, factors),
    "manifest": Target("json", sound_manifest, manifest),
    "golden": Target(
        "json",
        lambda: json.dumps(
            {"format": "tinylora-golden", "version": 1, "digests": {"torch": "1" * 64}, "notes": {"torch": "a"}}
        ).encode(),
        golden,
    ),
    "pickled": Target("pickle", lambda: _pickle_of(PICKLED.adapter / "adapter_model.bin"), pickled),
    "archive": Target("bytes", (PICKLED.adapter / "adapter_model.bin").read_bytes, archive),
    "legacy": Target("bytes", lambda: _legacy(), legacy),
    "module_order": Target("text", lambda: _order(), module_order),
    "others": Target("json", lambda: json.dumps(_JSON_OF_OTHERS).encode(), others),
    "hub": Target("text", lambda: b"404 Client Error\nfor url", hub),
}


def _pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as found:
        return found.read(next(name for name in found.namelist() if name.endswith("data.pkl")))


def _legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {"a": torch.arange(6.0), "b": [torch.ones(2, 2), "text", 3]}, buffer, _use_new_zipfile_serialization=False
    )
    return buffer.getvalue()


def _order() -> bytes:
    return "\n".join(str(module["name"]) for module in SHARDED.modules).encode()
