"""An adapter as a program would look at it, before it is written."""

from __future__ import annotations

import pytest
from fixture_data import fixture

from tinylora_tools import load_adapter
from tinylora_tools.errors import UnsupportedError
from tinylora_tools.ops.convert.export import Export, Limit, refuse

pytestmark = pytest.mark.filterwarnings("ignore")


def test_ranks_and_types_are_those_that_are_going_to_be_written() -> None:
    cases = [fixture("peft021-13-numbers"), fixture("peft021-layers")]
    loaded = [load_adapter(case.adapter, cases[0].base) for case in cases]
    export = Export.of(loaded, padded=False)
    assert (export.rank, export.differing, Export.of(loaded, padded=True).differing) == (4, True, False)
    assert (export.class_name, export.model_type) == ("Qwen2ForCausalLM", "qwen2")
    assert set(export.kinds.values()) == {"Linear"}
    assert not Export.of(loaded[:1], padded=False).differing


def test_what_is_not_known_is_no_reason_to_refuse() -> None:
    case = fixture("peft021-layers")
    export = Export.of([load_adapter(case.adapter, case.base)], padded=True)
    assert refuse([Limit("nobody knows", "unknown", "")], export) == ["nobody knows"]
    both = [Limit("one", "refused", "this way"), Limit("nobody knows", "unknown", ""), Limit("two", "lost", "")]
    with pytest.raises(UnsupportedError, match=r"one \(and 1 more such\)") as caught:
        refuse(both, export)
    assert caught.value.hint == "this way"
