"""The commands as people and scripts use them: text, JSON, exit codes, and what they import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixture_data import ROOT, fixture

from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import COMMANDS, group
from tinylora_tools.cli.output import printable, size

Run = Callable[..., Any]

ADAPTER_KEYS = {
    "kind", "path", "trainable_parameters", "trainable_bytes", "trainable_bytes_bf16", "stored_parameters",
    "tensor_bytes", "file_bytes", "contents", "groups", "order_from", "regime", "peft_version", "base_model", "config",
    "modules", "warnings",
}  # fmt: skip
CHECKPOINT_KEYS = {
    "kind", "path", "architecture", "parameters", "tensor_bytes", "file_bytes", "tensors", "shards", "dtypes", "layers",
    "tied", "quantization", "warnings",
}  # fmt: skip
MERGE_KEYS = {
    "output", "base", "adapters", "dry_run", "modules_merged", "tensors_replaced", "tensors_copied", "bytes_written",
    "seconds", "tied", "delta_error", "modules", "warnings",
}  # fmt: skip


def test_inspect_json(tinylora: Run) -> None:
    adapter = json.loads(tinylora("inspect", fixture("peft021-13-numbers").adapter, "--json").out)
    assert adapter.keys() == ADAPTER_KEYS
    assert adapter["kind"] == "tinylora-adapter"
    assert adapter["modules"][0].keys() == {"name", "index", "group", "rank", "in_features", "out_features"}
    checkpoint = json.loads(tinylora("inspect", ROOT / "bases" / "qwen2-tied-bf16", "--json").out)
    assert checkpoint.keys() == CHECKPOINT_KEYS
    assert checkpoint["kind"] == "checkpoint"


def test_inspect_text(tinylora: Run) -> None:
    result = tinylora("inspect", fixture("peft021-13-numbers").adapter, "--base", ROOT / "bases" / "qwen2-bf16")
    assert result.code == 0
    assert "13 parameters in 1 group: 52 bytes as stored, 26 bytes in bf16" in result.out
    assert "model.layers.10.self_attn.q_proj" in result.out
    assert "warning: P isn't stored" in result.err
    result = tinylora("inspect", ROOT / "bases" / "llama-sharded-bf16")
    assert "LlamaForCausalLM" in result.out
    assert "model-00001-of-" in result.out


def test_merge_reports(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft021-embedding")
    arguments = ["merge", case.adapter, "--base", case.base]
    dry = tinylora(*arguments, "-o", tmp_path / "a", "--dry-run", "--json")
    assert json.loads(dry.out).keys() == MERGE_KEYS
    assert "base not verified" in tinylora(*arguments, "-o", tmp_path / "a", "--dry-run").out
    assert list(tmp_path.iterdir()) == []
    real = json.loads(tinylora(*arguments, "-o", tmp_path / "a", "--json").out)
    assert real.keys() == MERGE_KEYS
    assert real["modules"][0].keys() == {"name", "tensor", "delta_norm", "delta_error", "rho"}
    assert real["modules_merged"] == len(case.modules)
    assert real["bytes_written"] == sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    text = tinylora(*arguments, "-o", tmp_path / "b")
    assert "3 modules merged" in text.out
    assert "tied embeddings untied" in text.out
    quiet = tinylora(*arguments, "-o", tmp_path / "c", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_merge_finds_the_base_that_the_adapter_names(
    tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = fixture("peft020-tiny")
    monkeypatch.chdir(ROOT.parent)
    assert tinylora("merge", case.adapter, "-o", tmp_path / "a").code == 0
    monkeypatch.chdir(tmp_path)
    result = tinylora("merge", case.adapter, "-o", tmp_path / "b")
    assert result.code == 1
    assert "names 'fixtures/bases/llama-fp32' as its base, which isn't at hand" in result.err
    assert "--base DIR" in result.err


def test_output_has_the_umasks_mode_and_a_card(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    (tmp_path / "plain").touch()
    assert tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o").code == 0
    for path in (tmp_path / "o").iterdir():
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    card = (tmp_path / "o" / "README.md").read_text()
    assert "TinyLoRA" in card
    assert str(tmp_path) not in card


def test_copies_what_belongs_to_the_model(
    tinylora: Run, copied: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    adapter, base = copied("peft020-tiny")
    for name in ("tokenizer.json", "chat_template.jinja", "modeling_x.py", "1_Pooling/config.json"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(name)
    for name in ("README.md", "flax_model.msgpack", ".gitattributes", "onnx/model.onnx", "pytorch_model.bin"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("no")
    blob = tmp_path / "blob"
    (base / "model.safetensors").rename(blob)  # a Hub cache holds links to shared blobs
    (base / "model.safetensors").symlink_to(blob)
    before = blob.read_bytes()
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o").code == 0
    written = {str(path.relative_to(tmp_path / "o")) for path in (tmp_path / "o").rglob("*") if path.is_file()}
    assert written == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "chat_template.jinja", "modeling_x.py", "1_Pooling/config.json",
    }  # fmt: skip
    assert (tmp_path / "o" / "README.md").read_text() != "no"
    assert not any(path.is_symlink() for path in (tmp_path / "o").rglob("*"))
    assert blob.read_bytes() == before
    assert (tmp_path / "o" / "model.safetensors").stat().st_nlink == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["merge", "--help"],
        ["inspect", "ADAPTER"],
        ["inspect", "BASE"],
        ["merge", "ADAPTER", "-o", "OUT"],
        ["count", "BASE", "--budget", "13"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported(arguments: list[str], tmp_path: Path) -> None:
    places = {
        "ADAPTER": ROOT / "peft021-13-numbers" / "adapter",
        "BASE": ROOT / "bases" / "qwen2-bf16",
        "OUT": tmp_path / "o",
    }
    kept_out = {"torch", "transformers"} | (
        set() if arguments[0] == "merge" and "OUT" in arguments else {"huggingface_hub"}
    )
    code = (
        "import sys, atexit; from tinylora_tools.cli import main\n"
        f"atexit.register(lambda: print(sorted({kept_out} & set(sys.modules))))\n"
        "main()"
    )
    command = [sys.executable, "-c", code, *(str(places.get(part, part)) for part in arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", [*COMMANDS, *(f"convert {form}" for form in FORMS)])
def test_help_is_whole(name: str) -> None:
    result = CliRunner().invoke(group, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert name == "convert" or ("--json" in result.output and "--quiet" in result.output)


def test_names_from_files_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\ud800\n") == "a\\x1b[31mb\\x07\\u202ec\\ud800\n"


def test_sizes() -> None:
    assert [size(n) for n in (1, 26, 9999, 10_000, 999_499_999, 3_090_000_000)] == [
        "1 byte", "26 bytes", "9999 bytes", "10 kB", "999 MB", "3.09 GB",
    ]  # fmt: skip
