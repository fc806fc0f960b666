"""What adapters bring whole: the base's own, something else, or nobody knows."""

from __future__ import annotations

import pytest
from fixture_data import fixture

from tinylora_tools import load_adapter
from tinylora_tools.ops.convert.brought import brought_whole

pytestmark = pytest.mark.filterwarnings("ignore")


def test_embeddings_that_peft_saves_along_are_the_base_s() -> None:
    for name in ("peft021-embedding", "peft021-both-tied"):
        case = fixture(name)
        adapter = load_adapter(case.adapter, case.base)
        found = brought_whole([adapter])
        assert set(found.own) == set(adapter.header.replaced)
        assert (found.other, found.unknown) == ((), ())


def test_biases_and_saved_modules_are_something_else() -> None:
    for name in ("peft021-bias-all", "peft020-bert-bias"):
        case = fixture(name)
        found = brought_whole([load_adapter(case.adapter, case.base)])
        assert found.other
        assert not found.unknown


def test_nothing_is_brought_by_most() -> None:
    case = fixture("peft021-layers")
    assert brought_whole([load_adapter(case.adapter, case.base)] * 2) == brought_whole([])
