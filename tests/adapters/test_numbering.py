"""Places and groups: what tells them, what contradicts it, and what is said where nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import peft
import pytest
from edited_files import edited_copy, without_projections
from fixture_data import FIXTURES, Fixture, fixture
from transformers import AutoModelForCausalLM

from tinylora_tools.adapters.numbering import Numbering, number_modules
from tinylora_tools.adapters.order import FirstAdapter
from tinylora_tools.adapters.provenance import provenance
from tinylora_tools.bases.architectures.architecture import Architecture
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.peft.adapter import read_adapter

LAYERS = fixture("peft021-layers")  # 6 modules, P stored
NAMES = [row["name"] for row in LAYERS.modules]


def numbered(
    path: Path,
    architecture: Architecture | None = None,
    module_order: Sequence[str] | None = None,
    first: Sequence[str] | None = None,
) -> Numbering:
    header = read_adapter(path)
    return number_modules(
        header,
        provenance(header),
        architecture=architecture,
        module_order=module_order,
        first_adapter=None if first is None else FirstAdapter(tuple(first), ordered=True),
    )


def architecture_of(case: Fixture) -> Architecture | None:
    return Base(case.base).architecture


def placed(names: Sequence[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_the_architecture_tells_peft_s_places_and_groups(case: Fixture) -> None:
    found = numbered(case.adapter, architecture_of(case))
    assert found.index == placed([row["name"] for row in case.modules])
    assert found.group == {row["name"]: row["group"] for row in case.modules}
    assert (found.source, found.doubts, found.notes) == ("architecture", (), ())


def test_stored_p_or_a_single_group_tell_without_an_architecture() -> None:
    found = numbered(LAYERS.adapter)
    assert (found.source, found.index) == ("stored P", placed(NAMES))
    seed_only = fixture("peft021-13-numbers")
    found = numbered(seed_only.adapter)
    assert (found.source, found.index) == ("one group", None)
    assert found.group == dict.fromkeys((row["name"] for row in seed_only.modules), 0)
    assert [str(doubt).partition(": ")[2] for doubt in found.doubts] == [
        "the order of the modules is in no file: P isn't stored, and no architecture is known"
    ]
    assert found.doubts[0].hint == (
        "Name the base model with base, so that its config.json tells the architecture, or give the modules with "
        "module_order=..., all of them or the targeted ones, in the order of model.named_modules(), one name a line: "
        "print(*(name for name, _ in model.named_modules()), sep='\\n') lists them; the keys of a checkpoint stand in "
        "another order."
    )
    assert numbered(fixture("peft019-shared").adapter).source == "unknown"


def test_the_first_adapter_s_places_are_the_second_s_seeds(tmp_path: Path) -> None:
    """Groups go by the adapter's own; the stored P say that it is so."""
    second = fixture("peft020-second")
    names = [row["name"] for row in second.modules]
    adapter = edited_copy(second.name, tmp_path / "a", without_projections)
    first = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(12) for p in "qkv"]
    found = numbered(adapter, architecture_of(second), first=first)
    assert (found.order, found.notes) == (names, ())
    assert found.index == {name: first.index(name) for name in names}
    assert found.group == {row["name"]: row["group"] for row in second.modules}
    assert numbered(adapter, architecture_of(second), first=names).index == placed(names)
    assert numbered(adapter, architecture_of(second), first=()).index == placed(names)
    stored = provenance(read_adapter(second.adapter)).offsets
    assert {name: (place,) for name, place in found.index.items()} == stored
    assert numbered(second.adapter, architecture_of(second), first=first).index == found.index
    with pytest.raises(MismatchError, match=rf"first_adapter makes the seed of {names[1]} that of place 1, its stored"):
        numbered(second.adapter, architecture_of(second), first=names)


def test_the_first_adapter_s_order_gives_the_second_its_groups() -> None:
    """PEFT 0.19 numbered groups by it too, and saved its factors along."""
    second = fixture("peft019-two")
    first = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qkv"]
    groups = {row["name"]: row["group"] for row in second.modules}
    for architecture in (None, architecture_of(second)):
        found = numbered(second.adapter, architecture, first=first)
        assert (found.group, found.index) == (groups, {name: first.index(name) for name in groups})


def test_groups_that_no_numbering_makes_are_said_so(tmp_path: Path) -> None:
    adapter = edited_copy("peft019-shared", tmp_path / "a", weight_tying=0.25)
    found = numbered(adapter, architecture_of(fixture("peft019-shared")))
    assert found.index is not None
    assert found.group is None
    assert [str(doubt).partition(": ")[2] for doubt in found.doubts] == [
        "36 modules with weight_tying 0.25 don't make the groups 0 to 17 that the file holds vectors for"
    ]


def test_one_vector_is_one_group_only_where_the_configuration_makes_one(tmp_path: Path) -> None:
    """But under PEFT 0.19, where another adapter's modules may have numbered the groups."""
    case = fixture("peft021-13-numbers")
    edited = edited_copy(case.name, tmp_path / "a", weight_tying=0.5)
    for architecture, said in (
        (None, "the file holds one trained vector, but 84 modules with weight_tying 0.5 make 42 groups"),
        (architecture_of(case), "84 modules with weight_tying 0.5 don't make the groups 0 that the file holds vectors"),
    ):
        found = numbered(edited, architecture)
        assert found.group is None
        assert isinstance(found.doubts[-1], MismatchError)
        assert said in str(found.doubts[-1])
    older = edited_copy(case.name, tmp_path / "b", weight_tying=0.5, peft_version="0.19.1")
    assert numbered(older).group == dict.fromkeys((row["name"] for row in case.modules), 0)


QWEN2 = fixture("peft020-second").base
INSIDE = r".*\.(q|v)_proj.*"  # matches q_proj.base_layer too


def beside(
    first: object, second: object, tying: float, directory: Path, *, shared: bool = False
) -> tuple[Path, dict[str, int], dict[str, int]]:
    """An adapter that PEFT added to one with other targets; its modules' places and groups in PEFT."""
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(QWEN2), peft.TinyLoraConfig(r=2, u=3, target_modules=first)
    )
    model.add_adapter("second", peft.TinyLoraConfig(r=2, u=3, weight_tying=tying, target_modules=second))
    model.save_pretrained(directory)
    wrapped = [(n, m) for n, m in model.base_model.model.named_modules() if "second" in getattr(m, "tinylora_A", ())]
    places, groups = ({n: one(m) for n, m in wrapped} for one in (lambda m: m._layer_idx, v_key_of))
    return directory / "second", places, groups


def v_key_of(module: object) -> int:
    return int(module._tinylora_v_key["second"])  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tying", [0.0, 0.5])
@pytest.mark.parametrize("first", [["q_proj"], ["q_proj", "v_proj"], ["v_proj", "down_proj"]], ids="-".join)
def test_an_expression_that_matches_what_wrapped_layers_hold(first: list[str], tying: float, tmp_path: Path) -> None:
    """PEFT counts them when it groups, and adapts them once; the stored P, or who knows the first adapter, tell."""
    adapter, places, groups = beside(first, INSIDE, tying, tmp_path)
    architecture = Base(QWEN2).architecture
    found = numbered(adapter, architecture)
    assert (found.group, found.doubts) == (groups, ())
    names = [name for name, _ in AutoModelForCausalLM.from_pretrained(QWEN2).named_modules()]
    targets = [name for name in names if name.endswith(tuple(first))]
    assert numbered(adapter, architecture, first=targets).index == places
    alone = edited_copy(adapter, tmp_path / "away" / "without", without_projections)
    told = numbered(alone, architecture, first=targets)
    assert (told.index, told.group, told.doubts) == (places, groups, ())
    assert numbered(alone, None, names, targets).group == groups
    untold = numbered(alone, architecture)
    assert untold.group is None  # by its own places it would have other groups than the file
    assert "first_adapter=..." in str(untold.doubts[0].hint)


@pytest.mark.filterwarnings("ignore")
def test_the_same_expression_of_the_only_adapter_counts_nothing_twice(tmp_path: Path) -> None:
    chosen = peft.TinyLoraConfig(r=2, u=3, weight_tying=0.9, target_modules=INSIDE)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(QWEN2), chosen)
    model.save_pretrained(tmp_path / "a")
    live = [(n, m) for n, m in model.base_model.model.named_modules() if hasattr(m, "_tinylora_v_key")]
    found = numbered(tmp_path / "a", Base(QWEN2).architecture)
    assert found.index == {name: module._layer_idx for name, module in live}
    assert found.group == {name: int(module._tinylora_v_key["default"]) for name, module in live}
