"""Merges against what PEFT's live modules compute, PEFT's own merge, and the model's forward pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import recipe
import torch
import transformers
from fixture_data import MERGEABLE, Fixture, fixture, tensors

from tinylora_tools.bases.architecture import from_config
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.peft_adapter import read_adapter
from tinylora_tools.ops.inspect.checkpoint import CheckpointReport
from tinylora_tools.ops.inspect.run import inspect
from tinylora_tools.ops.merge.run import merge

every_fixture = pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
Array = np.ndarray[Any, Any]


def ulp(values: Array, dtype: np.dtype[Any]) -> Array:
    """The distance between neighbouring numbers of a dtype at each value."""
    info = ml_dtypes.finfo(dtype) if dtype.name == "bfloat16" else np.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(values), float(info.smallest_normal))))
    result: Array = 2.0 ** (exponent - info.nmant)
    return result


def stored_weight(case: Fixture, module: str, base: dict[str, Array]) -> str:
    """The base's tensor for a module: its own, or the one that it is tied to."""
    config = json.loads((case.base / "config.json").read_text())
    architecture = from_config(config)
    assert architecture is not None
    parameter = f"{module}.weight"
    tie = architecture.ties(parameter)
    names = [parameter] + ([tie.stored, *tie.members] if tie else [])
    return next(key for name in names for key in architecture.stored_keys(name) if key in base)


@every_fixture
def test_every_tensor_is_what_the_live_modules_say(case: Fixture, tmp_path: Path) -> None:
    """The bound per element that core.block_sum promises, against float64; everything else byte for byte."""
    report = merge([case.adapter], tmp_path / "out", case.base)
    base, out = tensors(case.base), tensors(tmp_path / "out")
    adapter = read_adapter(case.adapter)
    replaced = {
        name.removesuffix(".weight"): adapter.file.read(replacement.tensor.name)
        for name, replacement in adapter.replaced.items()
    }
    changed = set()
    for row in case.modules:
        module = row["name"]
        key = stored_weight(case, module, base)
        own = next((k for k in (f"{module}.weight", f"{module.partition('.')[2]}.weight") if k in out), key)
        W = replaced.get(module, base[key]).astype(np.float64)
        live = case.live
        A, B = live[f"{module}.A"].astype(np.float64), live[f"{module}.B"].astype(np.float64)
        BR = B @ np.einsum("i,ijk->jk", live[f"{module}.v"].astype(np.float64), live[f"{module}.P"].astype(np.float64))
        delta, weight = BR @ A, np.abs(BR) @ np.abs(A)
        if row["kind"] == "Conv1D":
            delta, weight = delta.T, weight.T
        exact = W + delta
        result = out[own]
        assert result.dtype == base[key].dtype
        unit = ulp(exact, result.dtype)
        if result.dtype.itemsize == 2:
            bound = unit / 2 + (A.shape[0] + 2) * 2.0**-24 * (np.abs(W) + weight)
        else:
            bound = unit
        assert np.all(np.abs(result.astype(np.float64) - exact) <= bound), module
        changed.add(own)
    assert report.modules_merged == len(case.modules)
    for name in set(out) - changed:
        untouched = base.get(name)
        brought = [r.tensor.name for p, r in adapter.replaced.items() if name in (p, p.partition(".")[2])]
        expected = adapter.file.read(brought[0]) if brought else untouched
        if expected is None:  # the other side of a tie that was undone
            assert report.tied == "untied"
            expected = base[stored_weight(case, name.removesuffix(".weight"), base)]
        assert out[name].tobytes() == expected.astype(out[name].dtype).tobytes(), name


@every_fixture
def test_agrees_with_pefts_merge(case: Fixture, tmp_path: Path) -> None:
    """With --tied share, to 1e-5 of the update's norm in float32 and to rounding in 16 bits."""
    report = merge([case.adapter], tmp_path / "out", case.base, tied="share")
    lost_bias = any("no bias was saved" in warning for warning in report.warnings)  # PEFT 0.20's merge still had it
    assert lost_bias == (case.name == "peft020-bert-bias")
    base, out, theirs = tensors(case.base), tensors(tmp_path / "out"), tensors(case.merged)
    for name, ours in out.items():
        found = next((k for k in (name, f"transformer.{name}") if k in theirs), None)
        assert found is not None, name
        if lost_bias and name.endswith(".bias"):
            continue
        difference = np.linalg.norm(ours.astype(np.float64) - theirs[found].astype(np.float64))
        update = np.linalg.norm(ours.astype(np.float64) - base[name].astype(np.float64))
        if ours.dtype == np.float32:
            assert difference <= 1e-5 * update + 1e-7, name
        elif case.name == "peft021-no-autocast":  # PEFT then adds in bfloat16, an update rounded to bfloat16
            assert difference <= 1e-2 * update
        else:
            # A value that lies between two 16-bit numbers may go either way; no value differs by more.
            step = np.abs(ours.astype(np.float64) - theirs[found].astype(np.float64))
            assert np.all(step <= 1.01 * ulp(np.abs(ours.astype(np.float64)), ours.dtype)), name
            assert np.mean(step > 0) <= 0.02, name


@every_fixture
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_computes_what_the_adapted_model_computes(case: Fixture, tmp_path: Path) -> None:
    """The merged directory loads in transformers and gives the logits of PEFT's forward pass."""
    if case.name == "peft020-bert-bias":
        pytest.skip("PEFT 0.20 didn't save the biases that its forward pass had")
    if case.facts["transformers"].startswith("4."):
        pytest.skip("transformers 5 fuses experts that transformers 4 adapted one by one")
    merge([case.adapter], tmp_path / "out", case.base, dtype="float32")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = {"GPT2Model": "GPT2LMHeadModel"}.get(config["architectures"][0], config["architectures"][0])
    model = getattr(transformers, name).from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    inputs = {
        key.removeprefix("input."): torch.from_numpy(value)
        for key, value in case.live.items()
        if key.startswith("input.")
    }
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    expected = case.live["logits"]
    assert np.max(np.abs(logits - expected)) <= 2e-4 * np.max(np.abs(expected))


def test_an_adapter_in_the_bases_directory(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """What it was merged into loads as a model of its own, and inspect tells of both."""
    adapter, base = copied("peft021-13-numbers")
    merge([adapter], tmp_path / "plain", base)
    for path in adapter.iterdir():
        shutil.copyfile(path, base / path.name)
    merge([base], tmp_path / "out", base)
    plain, out = ({path.name for path in (tmp_path / name).iterdir()} for name in ("plain", "out"))
    assert out == plain
    report, weights = inspect(base), base / "adapter_model.safetensors"
    assert report.kind == "checkpoint"
    assert any(f"tinylora_tools.inspect({weights})`" in warning for warning in report.warnings)
    assert inspect(weights).kind == "tinylora-adapter"
    assert inspect(tmp_path / "out").warnings == []


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


def test_bytes_do_not_depend_on_threads_blocks_or_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinylora_tools.core import block_sum_torch
    from tinylora_tools.ops.merge import run as module
    from tinylora_tools.ops.merge import write as merge_write

    for name in ("peft021-13-numbers", "peft020-gpt2"):
        case = fixture(name)
        expected = None
        for threads, elements in ((1, 450_000), (2, 7), (5, 100)):
            monkeypatch.setattr(merge_write.MergeWriter.__init__, "__kwdefaults__", {"block_elements": elements})
            out = tmp_path / f"{name}-{threads}"
            merge([case.adapter], out, case.base, threads=threads)
            found = [path.read_bytes() for path in sorted(out.glob("*.safetensors"))]
            expected = expected or found
            assert found == expected
        monkeypatch.setattr(
            module,
            "adder_on",
            lambda _: lambda _, dtype: block_sum_torch.TorchBlockAdder(dtype, torch.device("cpu")),
        )
        merge([case.adapter], tmp_path / f"{name}-torch", case.base)
        assert [p.read_bytes() for p in sorted((tmp_path / f"{name}-torch").glob("*.safetensors"))] == expected
        monkeypatch.undo()


def test_sums_scaled_adapters(tmp_path: Path) -> None:
    first, second = fixture("peft021-layers"), fixture("peft020-second")
    merge([first.adapter, second.adapter], tmp_path / "out", first.base, scale=(2.0, -0.5), dtype="float32")
    base, out = tensors(first.base), tensors(tmp_path / "out")
    total: dict[str, Array] = {}
    for case, scale in ((first, 2.0), (second, -0.5)):
        for row in case.modules:
            key = f"{row['name']}.weight"
            total[key] = total.get(key, 0.0) + scale * case.delta(row["name"])
    for name, values in base.items():
        exact = values.astype(np.float64) + total.get(name, 0.0)
        assert np.all(np.abs(out[name] - exact) <= ulp(exact, np.dtype(np.float32))), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_unties_embeddings_and_says_so(tmp_path: Path) -> None:
    case = fixture("peft021-embedding")
    report = merge([case.adapter], tmp_path / "untied", case.base)
    assert report.tied == "untied"
    assert json.loads((tmp_path / "untied" / "config.json").read_text())["tie_word_embeddings"] is False
    out = tensors(tmp_path / "untied")
    assert out["lm_head.weight"].tobytes() == tensors(case.base)["model.embed_tokens.weight"].tobytes()
    shared = merge([case.adapter], tmp_path / "shared", case.base, tied="share")
    assert shared.tied == "shared"
    assert (tmp_path / "shared" / "config.json").read_bytes() == (case.base / "config.json").read_bytes()
    assert read_checkpoint(tmp_path / "shared").shard_of.keys() == read_checkpoint(case.base).shard_of.keys()


def test_reports_what_rounding_leaves(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    base = tensors(case.base)
    for scale in (1.0, 1e-3, 1e-7):
        out = tmp_path / f"{scale}"
        report = merge([case.adapter], out, case.base, scale=scale)
        merged = tensors(out)
        errors = norms = 0.0
        by_name = {module.name: module for module in report.modules}
        for row in case.modules:
            key, delta = f"{row['name']}.weight", scale * case.delta(row["name"])
            error = (merged[key].astype(np.float64) - base[key].astype(np.float64)) - delta
            errors += float(np.sum(error**2))
            norms += float(np.sum(delta**2))
            expected = np.linalg.norm(error) / np.linalg.norm(delta)
            assert by_name[row["name"]].delta_error == pytest.approx(expected, rel=1e-3)
        assert report.delta_error == pytest.approx(np.sqrt(errors / norms), rel=1e-3)
        assert any("dtype='float32'" in warning for warning in report.warnings) == (report.delta_error > 0.5)


@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_scales_itself(tmp_path: Path) -> None:
    """Gemma 3's: PEFT's forward pass adds the update behind the scale, so the merge adds it divided by that."""
    settings = {**recipe._DECODER, "head_dim": 8, "sliding_window": 16}
    base = recipe.Base("Gemma3ForCausalLM", settings)
    recipe.make_base(base, tmp_path / "base")
    case = recipe.Case("", "base", {"r": 2, "u": 5, "target_modules": ["embed_tokens", "q_proj"]}, "", task="CAUSAL_LM")
    recipe.make_adapter(case, base, tmp_path / "base", tmp_path / "made", "base")
    made = Fixture(tmp_path / "made")
    merge([made.adapter], tmp_path / "out", tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(made.live["input.input_ids"])).logits.numpy()
    expected = made.live["logits"]
    assert np.max(np.abs(logits - expected)) <= 2e-4 * np.max(np.abs(expected))
