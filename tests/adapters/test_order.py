"""The modules' order in the model: what tells it, and lists that are wrong."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from edited_files import WEIGHTS, Tensors, edited_copy, without_projections
from fixture_data import Fixture, fixture
from transformers import AutoModelForCausalLM

from tinylora_tools.adapters.order import FirstAdapter, Order, find_order, first_in, order_of_first
from tinylora_tools.adapters.provenance import provenance
from tinylora_tools.bases.architectures.architecture import Architecture
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.formats.peft.adapter import read_adapter

LAYERS = fixture("peft021-layers")  # 6 modules, P stored
NAMES = [row["name"] for row in LAYERS.modules]

MANY = fixture("peft021-13-numbers")  # 84 modules, seed-only
IN_ORDER = [row["name"] for row in MANY.modules]


def ordered(path: Path, architecture: Architecture | None = None, module_order: Sequence[str] | None = None) -> Order:
    header = read_adapter(path)
    return find_order(header, provenance(header), architecture, module_order, None)


def architecture_of(case: Fixture) -> Architecture | None:
    return Base(case.base).architecture


def test_p_that_contradict_the_architecture_leave_the_places_open(tmp_path: Path) -> None:
    def swap(tensors: Tensors) -> None:
        one, two = (f"base_model.model.{NAMES[i]}.tinylora_P" for i in (0, 1))
        tensors[one], tensors[two] = tensors[two], tensors[one]

    adapter = edited_copy(LAYERS.name, tmp_path / "a", swap)
    found = ordered(adapter, architecture_of(LAYERS))
    assert (found.source, found.names) == ("unknown", None)
    assert [str(doubt) for doubt in found.doubts] == [
        f"{adapter / WEIGHTS}: the stored P say that module 0 is {NAMES[1]}, the architecture qwen2 says {NAMES[0]}"
    ]
    swapped = [NAMES[1], NAMES[0], *NAMES[2:]]
    told = ordered(adapter, architecture_of(LAYERS), swapped)
    assert (told.source, told.names, told.notes) == ("given", swapped, [])
    other = ordered(adapter, architecture_of(LAYERS), NAMES)
    assert (other.names, other.notes) == (
        NAMES,
        ["the seeds of the stored P tell another order than module_order, which is followed"],
    )
    with pytest.raises(
        MismatchError, match=f"the stored P say that module 0 is {NAMES[1]}, module_order says"
    ) as caught:
        ordered(adapter, None, NAMES)
    assert str(caught.value.hint).startswith("Leave module_order out: the order is known. List them anew: print(")


def test_an_order_that_is_given_names_every_target() -> None:
    with pytest.raises(MismatchError, match=f"module_order doesn't name {NAMES[2]}, which the adapter targets"):
        ordered(LAYERS.adapter, None, NAMES[:2] + NAMES[3:])


def test_another_adapter_beside_one_without_p_makes_its_seeds_doubtful(tmp_path: Path) -> None:
    """Whichever was first in the model, the other's seeds follow its order; with the same targets there is no doubt."""
    second = fixture("peft020-second")
    shutil.copytree(second.directory / "adapter", tmp_path / "both")
    (tmp_path / "both" / "second").rename(tmp_path / "both" / "old")
    adapter = edited_copy(second.name, tmp_path / "both" / "second", without_projections)
    found = ordered(adapter, architecture_of(second))
    assert found.names is None
    assert isinstance(found.doubts[0], UndeterminedError)
    assert f"P isn't stored, and {tmp_path / 'both'} beside it holds an adapter with other targets" in str(
        found.doubts[0]
    )
    assert ordered(tmp_path / "both" / "old", architecture_of(second)).names is not None
    same = edited_copy("peft020-seed-only", tmp_path / "same")
    below = edited_copy("peft020-seed-only", same / "second")
    assert ordered(below, architecture_of(fixture("peft020-seed-only"))).source == "architecture"


def test_a_module_that_the_architecture_lacks_is_a_doubt_or_a_note(tmp_path: Path) -> None:
    """Where the stored P tell the order, it is only a note."""

    def rename(tensors: Tensors) -> None:
        for key in [key for key in tensors if NAMES[5] in key]:
            tensors[key.replace(NAMES[5], "model.layers.11.mixer")] = tensors.pop(key)

    adapter = edited_copy(LAYERS.name, tmp_path / "a", rename)
    found = ordered(adapter, architecture_of(LAYERS))
    assert (found.source, found.names) == ("stored P", [*NAMES[:5], "model.layers.11.mixer"])
    assert found.notes == ["transformers' qwen2 has no module model.layers.11.mixer"]
    edited_copy(LAYERS.name, tmp_path / "b", lambda t: (rename(t), without_projections(t)))
    doubtful = ordered(tmp_path / "b", architecture_of(LAYERS))
    assert (doubtful.names, [str(doubt) for doubt in doubtful.doubts]) == (None, found.notes)


def test_any_modules_of_the_model_may_be_listed() -> None:
    """Those that the adapter targets count, in the order of the list."""
    everything = [name for name, _ in AutoModelForCausalLM.from_pretrained(MANY.base).named_modules() if name]
    linear = [name for name in everything if name.endswith(("_proj", "lm_head", "embed_tokens"))]
    for listed in (everything, linear, IN_ORDER):
        for architecture in (None, architecture_of(MANY)):
            found = ordered(MANY.adapter, architecture, listed)
            assert (found.source, found.names, found.notes) == ("given", IN_ORDER, [])


def test_a_checkpoint_s_keys_are_no_order_of_modules() -> None:
    """By name, where layers.10 stands before layers.2, which no model has; by kind; by the numbers' values."""
    by_name = sorted(IN_ORDER)
    with pytest.raises(MismatchError, match=r"names model\.layers\.8\.\S+ behind model\.layers\.9\.") as caught:
        ordered(MANY.adapter, None, sorted(IN_ORDER, reverse=True))
    assert str(caught.value.hint).startswith("List them anew: print(*(name for name, _ in model.named_modules())")
    with pytest.raises(
        MismatchError, match=r"model\.layers\.2\.mlp\.down_proj behind model\.layers\.11\.self_attn\.v_proj"
    ):
        ordered(MANY.adapter, None, by_name)
    by_kind = [name for end in "qv" for name in IN_ORDER if name.endswith(f"{end}_proj")]
    rest = [name for name in IN_ORDER if name not in by_kind]
    with pytest.raises(MismatchError, match="has them in another order"):
        ordered(MANY.adapter, None, by_kind + rest)
    by_number = sorted(IN_ORDER, key=lambda name: (int(name.split(".")[2]), name))
    found = ordered(MANY.adapter, None, by_number)  # nothing contradicts it here, so it can only be pointed at
    assert found.names == by_number
    assert found.notes[0].startswith("module_order is in alphabetical order, as the keys of a checkpoint are")
    with pytest.raises(MismatchError) as known:
        ordered(MANY.adapter, architecture_of(MANY), by_number)
    assert "transformers' qwen2 says that module 0 is model.layers.0.self_attn.q_proj, module_order says" in str(
        known.value
    )
    assert "name a copy of the base whose config.json says another model_type" in str(known.value.hint)


def test_the_stored_p_of_an_added_adapter_contradict_a_wrong_list() -> None:
    """Its seeds are another's places, which grow in the model's order."""
    case = fixture("peft020-second")
    names = [row["name"] for row in case.modules]
    assert ordered(case.adapter, None, names).names == names
    by_number = sorted(names, key=lambda name: (int(name.split(".")[2]), name), reverse=False)
    assert by_number == names  # q_proj before v_proj, as they are registered
    swapped = [name for i in range(0, len(names), 2) for name in (names[i + 1], names[i])]
    with pytest.raises(MismatchError, match="in the order of module_order no adapter's P have the seeds of the stored"):
        ordered(case.adapter, None, swapped)


def test_which_adapter_was_first_is_said_by_its_path_or_its_modules(tmp_path: Path) -> None:
    case = fixture("peft020-second")
    header = read_adapter(case.adapter)
    assert first_in(None, header) is None
    assert first_in(case.adapter, header) == FirstAdapter((), ordered=False)  # it was the first itself
    other = first_in(str(case.directory / "adapter"), header)
    assert other is not None
    names = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(12) for p in "qkv"]
    assert sorted(other.names) == sorted(names)
    assert order_of_first(other, header, architecture_of(case), None) == names
    assert order_of_first(other, header, None, ["model", *names, "lm_head"]) == names
    with pytest.raises(UndeterminedError, match="the order of the modules of first_adapter is in no file"):
        order_of_first(other, header, None, None)
    (tmp_path / "first.txt").write_text("\n".join(names))
    for said in (tmp_path / "first.txt", names):
        listed = first_in(said, header)
        assert listed == FirstAdapter(tuple(names), ordered=True)
        assert listed is not None
        assert order_of_first(listed, header, None, None) == names
    with pytest.raises(MismatchError, match="first_adapter names"):
        order_of_first(FirstAdapter(tuple(names[::-1]), ordered=True), header, None, None)
