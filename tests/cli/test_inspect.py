"""`tinylora inspect` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifiers import make
from damage import edit_json
from fixture_data import ROOT, fixture
from safetensors import safe_open

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]

ADAPTER_KEYS = {
    "kind", "path", "trainable_parameters", "trainable_bytes", "trainable_bytes_bf16", "stored_parameters",
    "tensor_bytes", "file_bytes", "digests", "contents", "groups", "head", "vectors", "values", "rounding",
    "order_from", "regime", "peft_version",
    "base_model", "config", "modules", "warnings",
}  # fmt: skip
CHECKPOINT_KEYS = {
    "kind", "path", "architecture", "parameters", "tensor_bytes", "file_bytes", "tensors", "shards", "dtypes", "layers",
    "tied", "quantization", "warnings",
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


def test_inspect_shows_a_packed_adapter(tinylora: Run, tmp_path: Path) -> None:
    case, packed = fixture("peft021-layers"), tmp_path / "a.safetensors"
    assert tinylora("convert", "packed", case.adapter, "-o", packed, "--base", case.base).code == 0
    lines = {" ".join(line.split()) for line in tinylora("inspect", packed).out.splitlines()}
    with safe_open(packed, "np") as file:
        digest = file.metadata()["weights"]
        vectors = [file.get_tensor(key) for key in file.keys() if key.startswith("v.")]  # noqa: SIM118
    assert {
        f"TinyLoRA adapter, packed {packed}",
        f"Trainable 18 parameters in 6 groups: {sum(v.nbytes for v in vectors)} bytes as stored",
        f"File {packed.stat().st_size} bytes",
        "Drawn by torch-cpu-avx2",
        f"Base fixtures/bases/qwen2-bf16, weights {digest[:12]}...",
    } <= lines


@pytest.mark.filterwarnings("ignore")
def test_inspect_tells_the_head_of_a_classifier(tinylora: Run, tmp_path: Path) -> None:
    made = make(tmp_path, "RobertaModel", "RobertaForSequenceClassification", labels=1, target_modules=["query"])
    lines = [" ".join(line.split()) for line in tinylora("inspect", made.adapter).out.splitlines()]
    assert "Head classifier.dense, classifier.out_proj: 1 label" in lines
    report = json.loads(tinylora("inspect", made.adapter, "--json").out)
    assert report["head"] == {"modules": ["classifier.dense", "classifier.out_proj"], "labels": 1}
    assert json.loads(tinylora("inspect", fixture("peft021-layers").adapter, "--json").out)["head"] is None


def test_inspect_names_a_given_order_and_numbers_by_it(tinylora: Run, tmp_path: Path) -> None:
    case, order = fixture("peft020-seed-only"), tmp_path / "order.txt"
    names = [row["name"] for row in case.modules]
    order.write_text("\n".join(["model", "model.layers", *names]))
    out = tinylora("inspect", case.adapter, "--module-order", order).out
    rows = [line.split() for line in out.splitlines() if line.rstrip().endswith("_proj")]
    assert [(int(row[0]), row[-1]) for row in rows] == list(enumerate(names))
    assert ["Module", "order", "from", "--module-order"] in [line.split() for line in out.splitlines()]


def test_what_a_file_says_cannot_steer_the_terminal(copied: Copied, tinylora: Run) -> None:
    adapter, _ = copied("peft020-tiny")
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="me/\x1b[2Jmodel")
    result = tinylora("inspect", adapter)
    assert "me/\\x1b[2Jmodel" in result.out
    assert "\x1b" not in result.out + result.err
    assert json.loads(tinylora("inspect", adapter, "--json").out)["base_model"] == "me/\x1b[2Jmodel"
