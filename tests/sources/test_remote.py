"""Repositories that are looked at from afar, by the real huggingface_hub, at a server on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fixture_data import fixture
from hub_runs import run_beside
from hub_server import COMMIT, Hub, hub_serving
from huggingface_hub import constants, file_download, hf_api

from tinylora_tools.bases.base import open_base
from tinylora_tools.errors import FormatError, TinyLoraError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.safetensors_file import build_header
from tinylora_tools.sources.remote import look

CASE = fixture("peft021-layers")
SHARDED = fixture("peft020-seed-only")
SOURCE = "hf://owner/name"

Tinylora = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Start a Hub for this process, which has a cache of its own."""
    contexts = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def start(directory: Path, **more: Any) -> Hub:
        contexts.append(context := hub_serving(directory, **more))
        hub = context.__enter__()
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, hf_api, file_download):
            for name, value in (("ENDPOINT", hub.address), ("HUGGINGFACE_CO_URL_TEMPLATE", template)):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, value)
        return hub

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture
def tinylora(tmp_path: Path) -> Tinylora:
    """Run a command beside a Hub: exit code, JSON, and what is said."""

    def run(hub: Hub, *words: str, **settings: str) -> tuple[int, Any, str]:
        return run_beside(hub.address, tmp_path / "home", *words, **settings)

    return run


def large_checkpoint(directory: Path, source: Path) -> int:
    """A model of 15 GB in four shards, as far as anybody can tell from headers: Qwen2.5-7B's sizes. Bytes of all."""
    directory.mkdir()
    config = json.loads((source / "config.json").read_text())
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
    heads = {"num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False, "layer_types": None}
    (directory / "config.json").write_text(json.dumps({**config, **sizes, **heads}))
    h, i, kv = 3584, 18944, 512
    rows = {"q_proj": (h, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, h)}
    layer = {f"self_attn.{name}.weight": shape for name, shape in rows.items()}
    layer |= {f"self_attn.{name}_proj.bias": (size,) for name, size in (("q", h), ("k", kv), ("v", kv))}
    layer |= {"mlp.gate_proj.weight": (i, h), "mlp.up_proj.weight": (i, h), "mlp.down_proj.weight": (h, i)}
    layer |= {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
    outer = {"model.embed_tokens.weight": (152064, h), "model.norm.weight": (h,), "lm_head.weight": (152064, h)}
    layers = {f"model.layers.{n}.{name}": shape for n in range(28) for name, shape in layer.items()}
    tensors, total, weight_map = [*(outer | layers).items()], 0, {}
    for number in range(4):
        name = f"model-{number + 1:05d}-of-00004.safetensors"
        its = tensors[number::4]
        header, places = build_header([(tensor, "BF16", shape) for tensor, shape in its], {"format": "pt"})
        with (directory / name).open("wb") as file:
            file.write(header)
            file.truncate(max(info.end for info in places.values()))
        total += (directory / name).stat().st_size
        weight_map |= {tensor: name for tensor, _ in its}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def test_fifteen_gigabytes_cost_kilobytes(tmp_path: Path, tinylora: Tinylora) -> None:
    total = large_checkpoint(tmp_path / "large", fixture("peft021-13-numbers").base)
    assert total > 15e9
    with hub_serving(tmp_path / "large") as hub:
        code, report, said = tinylora(hub, "inspect", SOURCE)
        assert code == 0, said
        assert (report["path"], report["file_bytes"]) == (f"{SOURCE}@{COMMIT}", total)
        assert report["parameters"] == 7_615_616_512
        assert hub.sent <= 4 * (32 << 10) + 4
        code, report, said = tinylora(hub, "count", SOURCE)
        assert (code, report["base"]) == (0, f"{SOURCE}@{COMMIT}"), said
        assert (len(report["modules"]), report["modules"][0]["out_features"]) == (56, 3584)
        assert hub.sent <= 8 * (32 << 10) + 8


@pytest.mark.parametrize("case", [CASE, SHARDED], ids=lambda case: case.name)
def test_tensors_are_those_of_the_files(case: Any, serving: Callable[..., Hub]) -> None:
    serving(case.base)
    base = open_base(SOURCE, afar=True)
    here = read_checkpoint(case.base)
    assert (base.afar, base.has_weights, base.name) == (True, True, "owner/name")
    assert (base.config, base.source) == (here.config, f"{SOURCE}@{COMMIT}")
    assert base.checkpoint.shard_of == here.shard_of
    for name in here.shard_of:
        assert base.checkpoint.info(name) == here.info(name)
        assert base.checkpoint.read(name).tobytes() == here.read(name).tobytes()
        assert b"".join(base.checkpoint.source(name).pieces(name)) == here.read(name).tobytes()
    assert not list(base.directory.glob("*.safetensors"))


def test_what_the_cache_has_is_read_there(serving: Callable[..., Hub], tmp_path: Path) -> None:
    hub = serving(CASE.base)
    huggingface_hub.snapshot_download("owner/name")
    sent = hub.sent
    base = open_base(SOURCE, afar=True)
    assert base.checkpoint.read("model.norm.weight").size
    assert hub.sent == sent


@pytest.mark.parametrize(
    "trouble",
    [[(500, {}), (503, {})], [(429, {"Retry-After": "1"})], ["cut"], ["slow"]],
    ids=["fails twice", "too many requests", "a connection is cut", "slow"],
)
def test_trouble_that_passes(trouble: list[Any], serving: Callable[..., Hub]) -> None:
    hub = serving(CASE.base)
    checkpoint = open_base(SOURCE, afar=True).checkpoint
    hub.trouble += trouble
    name = "model.embed_tokens.weight"
    assert checkpoint.read(name).tobytes() == read_checkpoint(CASE.base).read(name).tobytes()
    assert hub.trouble == []


def test_a_server_that_gives_whole_files_only(serving: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    serving(CASE.base, ranges=False)
    with pytest.raises(TinyLoraError, match="the server gives whole files only, no ranges of their bytes") as caught:
        open_base(SOURCE, afar=True).checkpoint.shards  # noqa: B018
    assert (caught.value.where, caught.value.hint) == (SOURCE, "Fetch it by `hf download owner/name`, and try again.")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_list_of_files_that_leads_out(name: str, serving: Callable[..., Hub]) -> None:
    serving(CASE.base, listed=[name])
    with pytest.raises(FormatError, match="which would be outside of it") as caught:
        look(SOURCE)
    assert repr(name) in str(caught.value)


def test_a_damaged_header_is_said_of_its_file(serving: Callable[..., Hub], tmp_path: Path) -> None:
    shutil.copytree(CASE.base, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    serving(tmp_path / "base")
    with pytest.raises(FormatError, match=r"model\.safetensors: truncated: the tensors need"):
        open_base(SOURCE, afar=True).checkpoint.shards  # noqa: B018
