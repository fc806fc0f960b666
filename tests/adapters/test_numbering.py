"""Places and groups: what tells them, what contradicts it, and what is said where nothing does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from edited_files import WEIGHTS, Tensors, edited_copy, without_projections
from fixture_data import FIXTURES, Fixture, fixture

from tinylora_tools.adapters.numbering import Numbering, number_modules, read_module_order
from tinylora_tools.adapters.provenance import provenance
from tinylora_tools.bases.architecture import Architecture
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import FormatError, MismatchError, UndeterminedError
from tinylora_tools.formats.peft_adapter import read_adapter

LAYERS = fixture("peft021-layers")  # 6 modules, P stored
NAMES = [row["name"] for row in LAYERS.modules]


def numbered(
    path: Path, architecture: Architecture | None = None, module_order: Sequence[str] | None = None
) -> Numbering:
    header = read_adapter(path)
    return number_modules(header, provenance(header), architecture=architecture, module_order=module_order)


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
        "Name the base model with base, so that its config.json tells the architecture, or give the targeted modules "
        "with module_order=..., in the order of model.named_modules(), one name a line."
    )
    assert numbered(fixture("peft019-shared").adapter).source == "unknown"


def test_p_that_contradict_the_architecture_leave_the_places_open(tmp_path: Path) -> None:
    def swap(tensors: Tensors) -> None:
        one, two = (f"base_model.model.{NAMES[i]}.tinylora_P" for i in (0, 4))
        tensors[one], tensors[two] = tensors[two], tensors[one]

    adapter = edited_copy(LAYERS.name, tmp_path / "a", swap)
    found = numbered(adapter, architecture_of(LAYERS))
    assert (found.source, found.index, found.group) == ("unknown", None, None)
    assert [str(doubt) for doubt in found.doubts] == [
        f"{adapter / WEIGHTS}: the stored P say that module 0 is {NAMES[4]}, the architecture qwen2 says {NAMES[0]}"
    ]
    swapped = [NAMES[4], *NAMES[1:4], NAMES[0], NAMES[5]]
    told = numbered(adapter, architecture_of(LAYERS), swapped)
    assert (told.source, told.index, told.notes) == ("given", placed(swapped), ())
    other = numbered(adapter, architecture_of(LAYERS), NAMES)
    assert (other.index, other.notes) == (
        placed(NAMES),
        ("the seeds of the stored P tell another order than module_order, which is followed",),
    )


def test_an_order_that_is_given_names_every_target_and_no_holder() -> None:
    with pytest.raises(MismatchError, match=f"module_order doesn't name {NAMES[2]}, which the adapter targets"):
        numbered(LAYERS.adapter, None, NAMES[:2] + NAMES[3:])
    holder = NAMES[0].rpartition(".")[0]
    with pytest.raises(MismatchError, match=f"module_order names {holder}, which holds others that it names"):
        numbered(LAYERS.adapter, None, [holder, *NAMES])


def test_an_order_with_more_modules_counts_their_places(tmp_path: Path) -> None:
    """As PEFT's, whose first adapter in a model numbers the seeds of the others; groups go by the adapter's own."""
    second = fixture("peft020-second")
    names = [row["name"] for row in second.modules]
    adapter = edited_copy(second.name, tmp_path / "a", without_projections)
    first = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(12) for p in "qkv"]
    found = numbered(adapter, architecture_of(second), first)
    assert found.index == {name: first.index(name) for name in names}
    assert found.group == {row["name"]: row["group"] for row in second.modules}
    assert found.notes == (
        "module_order names 12 modules that the adapter doesn't target: its P are drawn as if they were targets of an "
        "adapter that was in the model first",
    )
    stored = provenance(read_adapter(second.adapter)).offsets
    assert {name: (place,) for name, place in found.index.items()} == stored


def test_the_first_adapter_s_order_gives_the_second_its_groups() -> None:
    """PEFT 0.19 numbered groups by it too, and saved its factors along."""
    second = fixture("peft019-two")
    first = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qkv"]
    groups = {row["name"]: row["group"] for row in second.modules}
    for architecture in (None, architecture_of(second)):
        found = numbered(second.adapter, architecture, first)
        assert (found.group, found.index) == (groups, {name: first.index(name) for name in groups})


def test_another_adapter_beside_one_without_p_makes_its_seeds_doubtful(tmp_path: Path) -> None:
    """Whichever was first in the model, the other's seeds follow its order; with the same targets there is no doubt."""
    second = fixture("peft020-second")
    shutil.copytree(second.directory / "adapter", tmp_path / "both")
    (tmp_path / "both" / "second").rename(tmp_path / "both" / "old")
    adapter = edited_copy(second.name, tmp_path / "both" / "second", without_projections)
    found = numbered(adapter, architecture_of(second))
    assert found.index is None
    assert isinstance(found.doubts[0], UndeterminedError)
    assert f"P isn't stored, and {tmp_path / 'both'} beside it holds an adapter with other targets" in str(
        found.doubts[0]
    )
    assert numbered(tmp_path / "both" / "old", architecture_of(second)).index is not None
    same = edited_copy("peft020-seed-only", tmp_path / "same")
    below = edited_copy("peft020-seed-only", same / "second")
    assert numbered(below, architecture_of(fixture("peft020-seed-only"))).source == "architecture"


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


def test_a_module_that_the_architecture_lacks_is_a_doubt_or_a_note(tmp_path: Path) -> None:
    """Where the stored P tell the order, it is only a note."""

    def rename(tensors: Tensors) -> None:
        for key in [key for key in tensors if NAMES[5] in key]:
            tensors[key.replace(NAMES[5], "model.layers.11.mixer")] = tensors.pop(key)

    adapter = edited_copy(LAYERS.name, tmp_path / "a", rename)
    found = numbered(adapter, architecture_of(LAYERS))
    assert (found.source, found.index) == ("stored P", placed([*NAMES[:5], "model.layers.11.mixer"]))
    assert found.notes == ("transformers' qwen2 has no module model.layers.11.mixer",)
    edited_copy(LAYERS.name, tmp_path / "b", lambda t: (rename(t), without_projections(t)))
    doubtful = numbered(tmp_path / "b", architecture_of(LAYERS))
    assert (doubtful.index, [str(doubt) for doubt in doubtful.doubts]) == (None, [*found.notes])


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
