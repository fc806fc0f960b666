"""Which modules a configuration targets, against the modules that PEFT itself wraps."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from fixture_data import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tinylora.layer import TinyLoraLayer
from peft.tuners.tuners_utils import _find_minimal_target_modules, check_target_module_exists

from tinylora_tools.bases.base import Base
from tinylora_tools.bases.modules import ModelModules, open_model
from tinylora_tools.bases.selection import default_targets, saved_modules, select, shortest_targets
from tinylora_tools.errors import MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.formats.peft.config import TinyLoraConfig

HERE = Path("base")


@lru_cache
def model_of(name: str, task_type: str | None = None) -> ModelModules:
    return open_model(Base(ROOT / "bases" / name), task_type=task_type)


def selected(name: str, **config: Any) -> list[str]:
    found = select(model_of(name, config.get("task_type")), TinyLoraConfig(**config), HERE)
    return [module.name for module in found.modules]


def wrapped(name: str, auto: str, **config: Any) -> list[str]:
    """The modules that PEFT wraps, by the model that it is given."""
    model = getattr(transformers, auto).from_pretrained(ROOT / "bases" / name)
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(r=1, u=1, **config)).base_model.model
    return [name for name, module in adapted.named_modules() if isinstance(module, TinyLoraLayer)]


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama-fp32", "AutoModelForCausalLM", {"target_modules": "all-linear"}),
    ("llama-fp32", "AutoModelForCausalLM", {}),
    ("llama-fp32", "AutoModelForCausalLM", {"target_modules": r".*\.1\.(self_attn\.[qk]_proj|mlp\.(up|down)_proj)"}),
    ("llama-fp32", "AutoModelForCausalLM", {"target_modules": ["proj", "q_proj", "1.mlp.up_proj"]}),
    ("llama-fp32", "AutoModelForCausalLM", {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": 1}),
    (
        "llama-fp32",
        "AutoModelForCausalLM",
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    ),
    ("bert-fp32", "AutoModelForSequenceClassification", {"task_type": "SEQ_CLS", "target_modules": "all-linear"}),
    ("t5-fp32", "AutoModelForSeq2SeqLM", {"task_type": "SEQ_2_SEQ_LM"}),
    ("gpt2-fp32", "AutoModelForCausalLM", {"target_modules": ["c_attn", "wte", "lm_head"]}),
    ("vit-fp32", "AutoModelForImageClassification", {"target_modules": "all-linear"}),
]


@pytest.mark.parametrize(("name", "auto", "config"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_the_modules_are_those_that_peft_wraps(name: str, auto: str, config: dict[str, Any]) -> None:
    assert selected(name, **config) == wrapped(name, auto, **config) != []


PARTS = st.lists(
    st.sampled_from(["model", "layers", "0", "1", "mlp", "self_attn", "q_proj", "up_proj", "proj", "lm_head"]),
    min_size=1,
    max_size=4,
).map(".".join)


@given(
    st.lists(PARTS, min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=2)),
    st.sampled_from([None, "layers", ["layers", "h"], "mlp"]),
)
@settings(deadline=None)
def test_names_match_as_peft_matches_them(wanted: list[str], layers: Any, pattern: Any) -> None:
    model = model_of("llama-fp32")
    config = TinyLoraConfig(
        target_modules=tuple(wanted),
        layers_to_transform=() if layers is None else layers,
        layers_pattern=() if layers is None or pattern is None else pattern,
    )
    theirs = peft.TinyLoraConfig(
        target_modules=wanted, layers_to_transform=layers, layers_pattern=None if layers is None else pattern
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matched = {name for name in [*model.modules, *model.inner_names()] if check_target_module_exists(theirs, name)}
    try:
        found = {module.name for module in select(model, config, HERE).modules}
    except UnsupportedError:
        assert matched & model.inner_names()
    except MismatchError:
        assert not matched
    else:
        assert found == matched


@given(st.data())
def test_many_targets_become_few_that_select_the_same(data: st.DataObject) -> None:
    """By PEFT's own search where names are whole; always with no other module among those selected."""
    model = model_of("qwen2-bf16")
    wanted = data.draw(st.sets(st.sampled_from(sorted(model.modules)), min_size=1, max_size=60))
    few = shortest_targets(wanted, model)
    others = [name for name in model.modules.keys() | model.inner_names() if name not in wanted]
    assert set(few) == _find_minimal_target_modules(sorted(wanted), others)
    assert {name for name in model.modules if any(name == t or name.endswith(f".{t}") for t in few)} == wanted


def test_from_twenty_targets_on_peft_saves_fewer() -> None:
    model = model_of("qwen2-bf16")
    k_proj = [f"model.layers.{i}.self_attn.k_proj" for i in range(12)]
    few = [f"layers.{i}.self_attn.q_proj" for i in range(8)]
    twenty = select(model, TinyLoraConfig(target_modules=(*k_proj, *few)), HERE)
    assert set(twenty.target_modules) == {"k_proj", *(f"{i}.self_attn.q_proj" for i in range(8))}
    assert {module.name for module in twenty.modules} == {*k_proj, *(f"model.{name}" for name in few)}
    nineteen = (*k_proj, *few[:7])
    assert select(model, TinyLoraConfig(target_modules=nineteen), HERE).target_modules == nineteen


@pytest.mark.filterwarnings("ignore")
def test_modules_that_are_saved_whole_are_peft_s() -> None:
    """Those that are listed, and the heads of a task."""
    config = {"task_type": "SEQ_CLS", "target_modules": ["query"], "modules_to_save": ["pooler.dense"]}
    found = saved_modules(model_of("bert-fp32", "SEQ_CLS"), TinyLoraConfig(**config))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(ROOT / "bases" / "bert-fp32")
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(**config)).base_model.model
    theirs = {name for name, m in adapted.named_modules() if isinstance(m, peft.utils.ModulesToSaveWrapper)}
    assert found == theirs == {"bert.pooler.dense", "classifier"}


def test_what_nothing_matches_is_told_with_what_there_is() -> None:
    with pytest.raises(MismatchError) as caught:
        selected("llama-fp32", target_modules=("q_porj",))
    assert str(caught.value) == "base: no module matches q_porj"
    assert caught.value.hint == (
        "Did you mean q_proj or v_proj? The model has down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, "
        "q_proj, up_proj, v_proj."
    )
    with pytest.raises(MismatchError, match="no module in the layers asked for matches q_proj"):
        selected("llama-fp32", target_modules=("q_proj",), layers_to_transform=(7,))
    with pytest.raises(UnsupportedError, match=r"target_modules matches model\.layers\.0\.mlp, which is no Linear"):
        selected("llama-fp32", target_modules=("mlp",))


def test_a_model_without_default_targets_asks_for_them() -> None:
    """PEFT has none for a ViT either."""
    with pytest.raises(UndeterminedError, match="PEFT has no default targets for vit"):
        default_targets(model_of("vit-fp32"), HERE)
    nobody = ModelModules({}, {}, None, None, None, ordered=False)
    with pytest.raises(UndeterminedError, match="no architecture is known, so no default targets are"):
        default_targets(nobody, HERE)
