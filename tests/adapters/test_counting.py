"""How PEFT counts modules, against what PEFT's live layers have."""

from __future__ import annotations

import re
from collections.abc import Sequence

import peft
import pytest
from fixture_data import fixture
from transformers import AutoModelForCausalLM

from tinylora_tools.adapters.counting import Counted, added, alone, ways_to_add

BASE = fixture("peft020-second").base
INSIDE = r".*\.(q|v)_proj.*"
CASES: list[tuple[list[str], str | list[str], float]] = [
    (["q_proj", "k_proj"], INSIDE, 0.5),
    (["q_proj"], INSIDE, 0.0),
    (["q_proj", "v_proj"], INSIDE, 0.3),
    (["down_proj"], INSIDE, 0.5),
    (["q_proj", "v_proj", "up_proj"], r".*\.(v|up)_proj", 0.3),
    (["v_proj"], ["q_proj", "v_proj"], 0.9),
]


def inside(target: str | list[str], name: str) -> bool:
    return isinstance(target, str) and re.fullmatch(target, f"{name}.base_layer") is not None


def counted(first: Sequence[str], second: str | list[str], tying: float) -> tuple[list[str], Counted, list[str]]:
    """The modules of the adapter that PEFT added, how it counted them, and those of the first."""
    base = AutoModelForCausalLM.from_pretrained(BASE)
    targets = [name for name, _ in base.named_modules() if name.endswith(tuple(first))]
    model = peft.get_peft_model(base, peft.TinyLoraConfig(r=1, u=1, target_modules=list(first)))
    model.add_adapter("second", peft.TinyLoraConfig(r=1, u=1, weight_tying=tying, target_modules=second))
    live = [(n, m) for n, m in model.base_model.model.named_modules() if "second" in getattr(m, "tinylora_A", ())]
    place = {name: module._layer_idx for name, module in live}
    return list(place), Counted(place, {name: int(m._tinylora_v_key["second"]) for name, m in live}), targets


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("first", "second", "tying"), CASES)
def test_an_added_adapter_is_counted_as_peft_counts_it(first: list[str], second: str | list[str], tying: float) -> None:
    names, wanted, targets = counted(first, second, tying)
    found = added(names, tying, first=targets, inside=lambda name: inside(second, name))
    assert (found.place, found.group) == (wanted.place, wanted.group)
    offsets = {name: (place,) for name, place in wanted.place.items()}
    ways = ways_to_add(names, tying, offsets=offsets, inside=lambda name: inside(second, name))
    assert ways is not None
    assert wanted.group in [way.group for way in ways]
    assert all(way.place == wanted.place for way in ways)


def test_until_peft_0_20_the_first_adapter_s_numbers_served_the_second() -> None:
    """As PEFT 0.19.1's live layers have it, for q, k and v of 12 layers and q and v, then v and o."""
    first = [f"layers.{i}.{p}" for i in range(12) for p in "qkv"]
    found = added([f"layers.{i}.{p}" for i in range(12) for p in "qv"], 0.5, first=first, inside=bool, stale=True)
    assert list(found.place.values()) == [n for n in range(36) if n % 3 != 1]
    assert found.group == {name: place // 2 for name, place in found.place.items()}  # 18 groups of two among 36
    names = [f"layers.{i}.{p}" for i in range(12) for p in "vo"]
    mixed = added(names, 0.0, first=first, inside=lambda name: False, stale=True)
    assert list(mixed.group.values()) == [2, *range(1, 24)]  # the first v by the first adapter, the rest by its own
    assert list(mixed.place.values())[:4] == [2, 1, 5, 3]  # of 0.19.2.dev0, which keeps the numbers of wrapped layers
    older = added(names, 0.0, first=first, inside=lambda name: False, stale=True, anew=True)
    assert (list(older.place.values()), older.group) == (list(mixed.group.values()), mixed.group)


def test_the_only_adapter_s_places_are_its_own() -> None:
    found = alone(["a", "b", "c"], 0.4)
    assert (found.place, found.group) == ({"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 1, "c": 1})


def test_seeds_that_no_order_gives_have_no_way() -> None:
    names = ["a", "b", "c"]
    for offsets in ({"a": (5,), "b": (4,), "c": (9,)}, {"a": (3,), "b": (3,), "c": (2,)}):
        if (ways := ways_to_add(names, 0.0, offsets=offsets, inside=lambda name: False)) != []:
            assert ways is not None
            assert offsets["b"] == (3,)
    assert ways_to_add(names, 0.0, offsets={"a": (5,), "b": (4,)}, inside=lambda name: False) == []
    assert ways_to_add([str(n) for n in range(40)], 0.0, offsets={}, inside=lambda name: True) is None
