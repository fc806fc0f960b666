"""Lists of modules: read, checked for what no model's order is, and followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_data import ROOT
from transformers import AutoModelForCausalLM

from tinylora_tools.bases.base import Base
from tinylora_tools.bases.listing import alphabetical, differ, listed_model, read_module_order, refuse_impossible
from tinylora_tools.bases.modules import open_model
from tinylora_tools.errors import FormatError, MismatchError

BASE = ROOT / "bases" / "qwen2-bf16"


def test_orders_in_files(tmp_path: Path) -> None:
    path = tmp_path / "order.txt"
    path.write_text("# printed by PEFT\n\n  base_model.model.a.b \r\nc\n#d\n", "utf-8")
    assert read_module_order(path) == ["a.b", "c"]
    path.write_text("a\nbase_model.model.a\n")
    with pytest.raises(FormatError, match="names a twice"):
        read_module_order(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="not a text file"):
        read_module_order(path)


@pytest.mark.parametrize("name", ["qwen2-bf16", "gpt2-fp32", "neox-bf16", "mixtral-bf16"])
def test_a_model_s_own_order_is_possible(name: str) -> None:
    names = [name for name, _ in AutoModelForCausalLM.from_pretrained(ROOT / "bases" / name).named_modules() if name]
    refuse_impossible(names, "module_order", BASE)
    refuse_impossible(names[3::5], "module_order", BASE)
    with pytest.raises(MismatchError, match="in another order"):
        refuse_impossible(names[::-1], "module_order", BASE)


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["h.0.a", "h.10.a", "h.2.a"], "h.2.a behind h.10.a"),
        (["h.0.a", "h.1.a", "h.0.b"], "h.0.b behind h.1.a"),
        (["a.x", "b", "a.y"], "a.y behind b"),
        (["a", "a.x", "b", "a.y"], "a.y behind b"),
    ],
)
def test_what_no_model_has_is_refused(names: list[str], wrong: str) -> None:
    with pytest.raises(MismatchError, match=f"first_adapter names {wrong}: ") as caught:
        refuse_impossible(names, "first_adapter", BASE)
    assert str(caught.value.hint).startswith("List them anew: print(*(name for name, _ in model.named_modules())")


def test_an_alphabetical_list_is_remarked_on_where_it_is_no_chance() -> None:
    assert len(alphabetical([f"h.{i}.{end}" for i in range(12) for end in ("down", "k", "q")])) == 1
    assert alphabetical([f"h.{i}.{end}" for i in range(12) for end in ("q", "k", "v")]) == []
    assert alphabetical([f"h.{i}.{end}" for i in range(12) for end in ("q", "v")]) == []


def test_the_first_difference_is_told() -> None:
    said = differ("one says", ["a", "b", "c"], "the other says", ["a", "c", "b"])
    assert said == "one says that module 1 is b, the other says c"


def test_a_model_in_a_list_s_order() -> None:
    base = Base(BASE)
    model = open_model(base)
    names = list(model.modules)
    assert listed_model(model, None, BASE) is model
    assert list(listed_model(model, ["model", *names[:3]], BASE).modules) == names[:3]
    with pytest.raises(MismatchError, match="the architecture qwen2 says that module 0 is"):
        listed_model(model, [names[2], names[1]], BASE)
    with pytest.raises(MismatchError, match="names no module of the base that has a weight matrix, but model"):
        listed_model(model, ["model", "model.layers"], BASE)
    with pytest.raises(MismatchError, match=r"module_order names no module$"):
        listed_model(model, [], BASE)
