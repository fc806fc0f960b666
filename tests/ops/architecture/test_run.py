"""A base described by the installed transformers, and used where the data don't know it."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import small_families
import torch
import transformers
from damage import edit_json

import tinylora_tools as tl
from tinylora_tools.bases.architectures.named import from_config
from tinylora_tools.bases.base import open_base

CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineModel(LlamaModel):
    config_class = MineConfig


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        self.adjust = torch.nn.Linear(config.hidden_size, 4, bias=False)
"""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    config = small_families.small_config("qwen2", tie_word_embeddings=True)
    small_families.random_model(transformers.Qwen2ForCausalLM, config, torch.float32).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def mine(qwen: Path) -> Path:
    """A model that brings code of its own along."""
    (qwen / "mine.py").write_text(CODE)
    auto_map = {
        "AutoConfig": "mine.MineConfig",
        "AutoModel": "mine.MineModel",
        "AutoModelForCausalLM": "mine.MineForCausalLM",
    }
    edit_json(qwen / "config.json", model_type="mine", architectures=["MineForCausalLM"], auto_map=auto_map)
    return qwen


def test_a_known_model_is_described_as_the_data_describe_it(qwen: Path, tmp_path: Path) -> None:
    report = tl.architecture(qwen, tmp_path / "qwen.json")
    assert (report.model_type, report.class_name) == ("qwen2", "Qwen2ForCausalLM")
    assert report.transformers == transformers.__version__
    assert report.ties == [["model.embed_tokens.weight", "lm_head.weight"]]
    assert report.modules == {"Embedding": 1, "Linear": 4 * 7}
    assert (report.missing, report.unexpected, report.warnings) == ([], [], [])
    config = json.loads((qwen / "config.json").read_text())
    by_data = from_config(config)
    with tl.described_by(tmp_path / "qwen.json"):
        by_file = from_config(config)
    assert by_data is not None
    assert by_file is not None
    assert sorted(by_file.classes) == sorted(by_data.classes)
    assert by_file.bare == by_data.bare
    ours, theirs = by_data.described(), by_file.described()
    assert ours.layout.letters == theirs.layout.letters
    assert by_file.ties.all == by_data.ties.all


def test_an_unknown_model_is_merged_with_its_description(qwen: Path, tmp_path: Path) -> None:
    """The same adapter and base, called a family that the data lack: refused, then right."""
    import peft

    edit_json(qwen / "config.json", model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    model = transformers.Qwen2ForCausalLM.from_pretrained(qwen)
    live = peft.get_peft_model(model, peft.TinyLoraConfig(r=2, u=4, target_modules=["q_proj", "embed_tokens"]))
    live.save_pretrained(tmp_path / "adapter")
    tl.architecture(qwen, tmp_path / "it.json")
    data = json.loads((tmp_path / "it.json").read_text()) | {"family": "newer"}
    (tmp_path / "it.json").write_text(json.dumps(data))
    edit_json(qwen / "config.json", model_type="newer", architectures=["NewerForCausalLM"])
    with pytest.raises(tl.UndeterminedError, match="the architecture 'newer' isn't known") as caught:
        tl.merge([tmp_path / "adapter"], tmp_path / "merged", base=qwen)
    assert "architecture(BASE, FILE)" in str(caught.value.hint)
    with tl.described_by(tmp_path / "it.json"), pytest.raises(tl.MismatchError, match="said to be a NewerForCausalLM"):
        tl.merge([tmp_path / "adapter"], tmp_path / "merged", base=qwen)
    [release] = data["releases"].values()
    release["classes"]["NewerForCausalLM"] = release["classes"].pop("Qwen2ForCausalLM")
    (tmp_path / "it.json").write_text(json.dumps(data))
    with tl.described_by(tmp_path / "it.json"):
        report = tl.merge([tmp_path / "adapter"], tmp_path / "merged", base=qwen)
    assert report.tied == "untied"


def test_an_open_base_is_described_anew_by_each_file(qwen: Path, tmp_path: Path) -> None:
    """And by none once that is over, though its architecture was read before."""
    tl.architecture(qwen, tmp_path / "it.json")
    base = open_base(qwen)
    by_data = base.architecture
    assert by_data is not None
    with tl.described_by(tmp_path / "it.json"):
        by_file = base.architecture
        assert by_file is not None
        assert by_file.transformers == (transformers.__version__,)
        assert base.architecture is by_file
    assert base.architecture is by_data
    data = json.loads((tmp_path / "it.json").read_text())
    del data["releases"][transformers.__version__]["classes"]["Qwen2ForCausalLM"]
    (tmp_path / "less.json").write_text(json.dumps(data))
    with (
        tl.described_by(tmp_path / "less.json"),
        pytest.raises(tl.MismatchError, match="said to be a Qwen2ForCausalLM"),
    ):
        _ = base.architecture


def test_a_manifest_says_by_which_description_was_merged(qwen: Path, tmp_path: Path) -> None:
    import peft

    model = transformers.Qwen2ForCausalLM.from_pretrained(qwen)
    peft.get_peft_model(model, peft.TinyLoraConfig(r=2, u=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    tl.architecture(qwen, file := tmp_path / "it.json")
    with tl.described_by(file):
        tl.merge([tmp_path / "a"], tmp_path / "merged", base=qwen, manifest=True)
        assert tl.verify_output(tmp_path / "merged", tmp_path / "a", qwen).ok
    settings = json.loads((tmp_path / "merged" / "tinylora-manifest.json").read_text())["settings"]
    assert settings["architecture"] == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(tl.MismatchError, match=f"of sha256 {settings['architecture']}, and given is none") as caught:
        tl.verify_output(tmp_path / "merged", tmp_path / "a", qwen)
    assert "described_by(FILE)" in str(caught.value.hint)


def test_code_that_a_base_brings_is_run_only_where_it_is_trusted(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(tl.UnsupportedError, match="read its config") as caught:
        tl.architecture(mine, tmp_path / "mine.json")
    assert "trust_remote_code=True" in str(caught.value.hint)
    assert not (tmp_path / "mine.json").exists()
    report = tl.architecture(mine, tmp_path / "mine.json", trust_remote_code=True)
    assert report.class_name == "MineForCausalLM"
    assert report.classes == ["MineForCausalLM", "MineModel"]
    assert report.missing == ["adjust"]
    assert report.warnings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "nobody"}, "can't read its config.json"),
        ({"architectures": ["NobodyForCausalLM"]}, "has no class NobodyForCausalLM"),
        ({"num_attention_heads": 0}, "can't"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_an_error(qwen: Path, changes: dict[str, Any], said: str) -> None:
    edit_json(qwen / "config.json", **changes)
    with pytest.raises(tl.UnsupportedError, match=said):
        tl.architecture(qwen)


def test_an_output_that_is_there_stays(qwen: Path, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text("mine")
    with pytest.raises(tl.OutputError):
        tl.architecture(qwen, tmp_path / "it.json")
    assert (tmp_path / "it.json").read_text() == "mine"
    tl.architecture(qwen, tmp_path / "it.json", force=True)
    assert json.loads((tmp_path / "it.json").read_text())["family"] == "qwen2"


def test_without_transformers_the_extra_is_named(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(tl.UnsupportedError, match="needs transformers") as caught:
        tl.architecture(qwen)
    assert caught.value.hint == "pip install 'tinylora-tools[transformers]'"
