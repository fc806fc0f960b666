"""What isn't known isn't read as "no": models and files of which too little is known, by transformers and PEFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from damage import edit_json
from edited_files import edited_copy, without_projections
from fixture_data import fixture
from safetensors.torch import load_file, save_file

from tinylora_tools import (
    MismatchError,
    UndeterminedError,
    architecture,
    count,
    described_by,
    inspect,
    load_adapter,
    merge,
    to_lora,
    verify_base,
)
from tinylora_tools.bases.architectures import families
from tinylora_tools.bases.architectures.named import from_config
from tinylora_tools.cli.verify_base import _SAID

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = torch.arange(8)[None]


@pytest.fixture
def without_olmo3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that lack a family, as they do newer ones."""
    known = {name: line for name, line in families._lines().items() if name != "olmo3"}
    monkeypatch.setattr(families, "_lines", lambda: known)
    families.family.cache_clear()


def olmo3(directory: Path, **settings: Any) -> tuple[Path, Path, Any]:
    """A family that the data lacks, with tied embeddings: its base, an adapter, and the adapted model."""
    torch.manual_seed(0)
    config = transformers.Olmo3Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=48, tie_word_embeddings=True, layer_types=["full_attention", "full_attention"], pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.Olmo3ForCausalLM(config).eval()
    model.save_pretrained(directory / "base")
    given = {"r": 2, "u": 3, "weight_tying": 1.0, "init_weights": "uniform", "init_v_bound": 0.5, **settings}
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(**given)).eval()
    adapted.save_pretrained(directory / "adapter")
    return directory / "base", directory / "adapter", adapted


@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj", "lm_head"]}, {
    "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"],
}], ids=str)  # fmt: skip
@pytest.mark.usefixtures("without_olmo3")
def test_ties_and_scales_that_are_not_known_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    base, adapter, _ = olmo3(tmp_path, **settings)
    assert from_config(json.loads((base / "config.json").read_text())) is None
    with pytest.raises(UndeterminedError) as caught:
        merge(adapter, tmp_path / "merged", base)
    said = caught.value.what
    assert "the architecture 'olmo3' isn't known" in said or "no tensor for lm_head.weight" in said
    assert "tinylora_tools.architecture(BASE, FILE)" in (caught.value.hint or "")
    if "modules_to_save" not in settings:
        with pytest.raises(UndeterminedError, match="the architecture 'olmo3' isn't known"):
            to_lora(adapter, tmp_path / "lora", base=base)
    assert not (tmp_path / "merged").exists()
    assert not (tmp_path / "lora").exists()


@pytest.mark.usefixtures("without_olmo3")
def test_numbered_layers_are_plain_where_the_user_says_so(tmp_path: Path) -> None:
    base, adapter, adapted = olmo3(tmp_path, target_modules="all-linear")
    for use in (lambda: merge(adapter, tmp_path / "m", base), lambda: to_lora(adapter, tmp_path / "l", base=base)):
        with pytest.raises(UndeterminedError) as caught:
            use()
        assert "'olmo3' isn't known, and with it whether its 14 modules are layers" in str(caught.value)
        assert "tinylora_tools.architecture(BASE, FILE)" in str(caught.value.hint)
        assert "tinylora_tools.described_by(architecture='plain')" in str(caught.value.hint)
    with torch.no_grad():
        expected = adapted(TOKENS).logits
        with adapted.disable_adapter():
            effect = (adapted(TOKENS).logits - expected).norm()
        with described_by("plain"):
            report = merge(adapter, tmp_path / "merged", base, dtype="float32")
            exported = to_lora(adapter, tmp_path / "lora", base=base)
        merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32")
        assert (merged(TOKENS).logits - expected).norm() <= 1e-4 * effect
        fresh = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        lora = peft.PeftModel.from_pretrained(fresh, tmp_path / "lora")
        assert (lora(TOKENS).logits - expected).norm() <= 1e-4 * effect
    for said in (report.warnings, exported.warnings):
        (warning,) = (text for text in said if "the architecture 'olmo3' isn't known" in text)
        assert "14 modules are layers that the model calls, and whose weights it uses for nothing else" in warning
        assert warning.endswith("It is taken for granted, as tinylora_tools.described_by(architecture='plain') says")


def test_a_file_that_peft_saved_without_some_modules_is_refused(tmp_path: Path) -> None:
    """With a second adapter named "0", saving the first drops every key with `.0.` in it."""
    case = fixture("peft021-layers")
    model = transformers.AutoModelForCausalLM.from_pretrained(case.base, dtype="float32")
    config = peft.TinyLoraConfig(target_modules=["q_proj"], u=3, init_weights="uniform")
    adapted = peft.get_peft_model(model, config)
    adapted.add_adapter("0", config)
    adapted.save_pretrained(tmp_path / "a", selected_adapters=["default"])
    adapter = tmp_path / "a"
    held = load_adapter(adapter, case.base).modules
    assert held
    assert not any(".0." in name for name in held)
    for use in (lambda: merge(adapter, tmp_path / "m", case.base), lambda: to_lora(adapter, tmp_path / "l")):
        with pytest.raises(MismatchError, match=r"the file lacks model\.layers\.0\.self_attn\.q_proj") as caught:
            use()
        assert "or PEFT's own loading, computes it" in (caught.value.hint or "")
    assert any("the file lacks model.layers.0" in text for text in inspect(adapter, case.base).warnings)


def test_groups_that_the_configuration_does_not_make_are_refused(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    adapter = edited_copy(case.name, tmp_path / "a", weight_tying=0.0)
    with pytest.raises(MismatchError, match="84 modules with weight_tying 0 don't make the groups 0 that"):
        merge(adapter, tmp_path / "m", case.base)
    merge(edited_copy(case.name, tmp_path / "b", weight_tying=0.999), tmp_path / "m", case.base)


@pytest.mark.parametrize("version", ["0.18.2.dev0", "0.18.2.dev0@5ca1ab1e", "0.19.0"])
def test_releases_that_salted_the_seed(version: str, tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    adapter = edited_copy(case.name, tmp_path / "a", without_projections, peft_version=version)
    with pytest.raises(UndeterminedError, match=f"PEFT {version} drew P from a seed that Python's hash salted"):
        merge(adapter, tmp_path / "m", case.base)
    with pytest.raises(MismatchError, match=f"seeding='index' is said of it, but PEFT {version} draws P otherwise"):
        merge(adapter, tmp_path / "m", case.base, seeding="index")


def test_a_release_that_straddles_the_change_is_asked_for(tmp_path: Path) -> None:
    """Its commit, where it is known, or who used it, say what P was drawn from: then the merge is that of stored P."""
    case = fixture("peft021-layers")
    version = "0.19.2.dev0@UNKNOWN"
    adapter = edited_copy(case.name, tmp_path / "a", without_projections, peft_version=version)
    with pytest.raises(UndeterminedError, match="the release doesn't tell which, and its commit isn't known") as caught:
        merge(adapter, tmp_path / "m", case.base)
    assert "Say seeding='index' if that PEFT was installed after 21 April 2026" in str(caught.value.hint)
    with pytest.raises(UndeterminedError, match="from a seed that Python's hash salted"):
        merge(adapter, tmp_path / "m", case.base, seeding="salted")
    merge(case.adapter, tmp_path / "wanted", case.base)
    merge(adapter, tmp_path / "said", case.base, seeding="index")
    known = edited_copy(
        case.name,
        tmp_path / "b",
        without_projections,
        peft_version="0.19.2.dev0@76c37d4686cf7245a9a6998fd1e2619d62c9322d",
    )
    merge(known, tmp_path / "known", case.base)
    bytes_of = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("wanted", "said", "known")]
    assert bytes_of[0] == bytes_of[1] == bytes_of[2]


@pytest.mark.usefixtures("without_olmo3")
def test_names_that_an_unknown_base_may_have_otherwise_are_no_verdict(tmp_path: Path) -> None:
    base, adapter, _ = olmo3(tmp_path, target_modules=["q_proj"])
    assert verify_base(adapter, base).verdict == "same-weights"
    config = json.loads((adapter / "adapter_config.json").read_text())
    path = adapter / "adapter_model.safetensors"
    state = {
        key.replace(".model.layers.0.", ".model.text.layers.0."): values for key, values in load_file(path).items()
    }
    save_file(state, path)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    report = verify_base(adapter, base)
    assert (report.verdict, report.ok) == ("unknown", False)
    assert {row.verdict for row in report.modules} == {"unknown", "same-weights"}
    assert any("no tensor for model.text.layers.0.self_attn.q_proj" in row.note for row in report.modules)
    assert "Nothing tells" in _SAID[report.verdict]


def test_code_that_a_base_brings_along_is_taken_for_transformers_own_where_stored_p_confirm_it(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    base = tmp_path / "base"
    shutil.copytree(case.base, base)
    edit_json(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"})
    merge(case.adapter, tmp_path / "with-p", base)
    bare = edited_copy(case.name, tmp_path / "a", without_projections)
    with pytest.raises(UndeterminedError, match="names code that the base brings along") as caught:
        merge(bare, tmp_path / "without-p", base)
    assert "tinylora_tools.architecture(BASE, FILE)" in str(caught.value.hint)
    with pytest.raises(UndeterminedError, match="names code that the base brings along"):
        count(base)
    architecture(base, tmp_path / "it.json")
    with described_by(tmp_path / "it.json"):
        merge(bare, tmp_path / "described", base)
    wanted, said = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("with-p", "described"))
    assert wanted == said
