"""What may become of layers, put together."""

from __future__ import annotations

from tinylora_tools.ops.architecture.effects import CALLED, TAKEN, Scope, all_of, any_of, both, either


def test_one_after_the_other_and_one_or_the_other() -> None:
    called, taken = {"x": {CALLED}}, {"x": {TAKEN}}
    assert both(called, taken) == {"x": {CALLED | TAKEN}}
    assert either(called, taken) == {"x": {CALLED, TAKEN}}
    assert both(either(called, {}), taken) == {"x": {TAKEN, CALLED | TAKEN}}
    assert all_of([called, {}, {"y": {TAKEN}}]) == {"x": {CALLED}, "y": {TAKEN}}
    assert any_of([called, {}]) == {"x": {CALLED, 0}}
    assert any_of([]) == all_of([]) == {}


def test_a_scope_holds_what_any_way_left() -> None:
    scope = Scope({"a": "layers.0"}, constants={"flag": None, "other": 1})
    one, other = scope.copy(), scope.copy()
    one.set("w", None, {"x": {TAKEN}})
    one.set("flag", None, {})
    other.set("a", "layers.1", {})
    scope.take_over([one, other])
    assert scope.values == {"w": {"x": {TAKEN, 0}}}
    assert scope.modules == {"a": "layers.0"}
    assert scope.constants == {"other": 1}
