"""Cards that are made of adapters, read back by huggingface_hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from edited_files import edited_copy
from fixture_data import fixture
from huggingface_hub import ModelCard

from tinylora_tools import pack, to_gguf, to_lora
from tinylora_tools.adapters.content import packed_in
from tinylora_tools.ops.push.cards import base_named, card_for

CASE = fixture("peft021-layers")
BASE = "Qwen/Qwen2.5-0.5B"
HEAD = "---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org\ntags:\n- chat\n- tinylora\n---\n# Base\n"


def made(path: Path, base_model: str | None = None) -> ModelCard:
    card = card_for(path, packed_in(path) or path, "you/name", base_model)
    assert str(path.parent) not in card
    return ModelCard(card, ignore_metadata_errors=False)


def test_an_adapter_of_tinylora(tmp_path: Path) -> None:
    adapter = edited_copy(CASE.name, tmp_path / "a", base_model_name_or_path=BASE, revision="v1", peft_version="0.21.0")
    card = made(adapter)
    assert card.data.to_dict() == {
        "base_model": BASE,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["tinylora"],
    }
    assert re.search(
        r"of Qwen/Qwen2\.5-0\.5B at v1 \(r=2, u=\d+, weight_tying=.*, seed 42, PEFT 0\.21\.0\)\.", card.text
    )
    assert 'PeftModel.from_pretrained(model, "you/name")' in card.text


def test_license_and_tags_are_the_base_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the base is at hand: a directory of its name, from here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / BASE).mkdir(parents=True)
    (tmp_path / BASE / "README.md").write_text(HEAD)
    adapter = edited_copy(CASE.name, tmp_path / "a", base_model_name_or_path=BASE)
    assert base_named(adapter, adapter) is None  # a path that is here is no repository, unless somebody says so
    data = made(adapter, BASE).data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "own", "https://x.org")
    assert data["tags"] == ["tinylora", "chat"]
    assert "# Base" not in made(adapter, BASE).content


def test_other_forms(tmp_path: Path) -> None:
    adapter = edited_copy(CASE.name, tmp_path / "a", base_model_name_or_path=BASE)
    to_lora(adapter, tmp_path / "lora", base=CASE.base)
    lora = made(tmp_path / "lora")
    assert (lora.data.library_name, lora.data.tags, lora.data.base_model) == ("peft", ["lora", "tinylora"], BASE)
    to_lora(adapter, tmp_path / "mlx", base=CASE.base, server="mlx")
    mlx = made(tmp_path / "mlx", BASE)
    assert (mlx.data.library_name, mlx.data.base_model) == ("mlx", BASE)
    assert "mlx_lm.generate" in mlx.text
    to_gguf(adapter, tmp_path / "a.gguf", base=CASE.base)
    gguf = made(tmp_path / "a.gguf", BASE)
    assert (gguf.data.tags, gguf.data.base_model) == (["lora", "gguf", "llama.cpp"], BASE)
    assert "llama-server -m BASE.gguf --lora a.gguf" in gguf.text
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "a.gguf", tmp_path / "only")
    assert made(tmp_path / "only", BASE).data.to_dict() == gguf.data.to_dict()
    pack(adapter, tmp_path / "p.safetensors", base=CASE.base)
    packed = made(tmp_path / "p.safetensors")
    assert packed.data.base_model == BASE
    assert "tinylora merge hf://you/name -o merged" in packed.text


@pytest.mark.parametrize("name", ["/home/someone/model", "./model", "a/b\nlicense: mit", None])
def test_a_base_that_is_no_repository_is_not_named(name: str | None, tmp_path: Path) -> None:
    adapter = edited_copy(CASE.name, tmp_path / "a", base_model_name_or_path=name)
    assert base_named(adapter, adapter) is None
    card = made(adapter)
    assert "base_model" not in card.data.to_dict()
    assert "someone" not in card.content
    assert "mit" not in card.content
