"""Names written as one tree."""

from __future__ import annotations

import random

import pytest

from tinylora_tools.bases.architectures.layout import Layout
from tinylora_tools.errors import UndeterminedError
from tinylora_tools.ops.architecture.tree import written


def linear(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "L")


def test_siblings_are_ordered_by_all_instances() -> None:
    """No layer of a hybrid has all modules: first met, first written would put `attn` behind `mlp`."""
    model = linear("layers.0.mamba", "layers.0.mlp", "layers.1.attn", "layers.1.mlp", "head") | {"wte": "E"}
    text = written([model])
    assert text == "layers.*(mamba attn mlp) head wte:E"
    shuffled = list(model)
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=Layout(text).sort_key) == list(model)


def test_several_shapes_are_one_tree() -> None:
    text = written([linear("a.x", "a.z"), linear("a.x", "a.y", "a.z"), {"a.x": "L", "b": "c"}])
    assert text == "a(x y z) b:c"
    assert written([{"h": "E", "h.inner": "L"}]) == "h:E(inner)"
    assert written([{"h": "L", "h.inner": "L"}]) == "h:L(inner)"
    assert written([{}]) == ""


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([{"a.0": "L", "a.1": "E"}], r"a\.\* is of kind E here and L"),
        ([linear("a.x", "a.y"), linear("a.y", "a.x")], "a orders"),
        ([linear("0.x", "a", "1.x")], "no order of siblings"),
    ],
)
def test_what_no_tree_says_is_an_error(models: list[dict[str, str]], said: str) -> None:
    with pytest.raises(UndeterminedError, match=said):
        written(models)
