"""What is seen in a method without following it."""

from __future__ import annotations

import ast
from typing import Any

from tinylora_tools.ops.architecture.source import definition, hands_over, is_weight, read_in, reads_weights


class Class:
    weight: Any
    x: Any
    y: Any

    def norm(self, h: Any) -> Any:
        return self.weight * h

    def takes(self, h: Any) -> Any:
        return h @ self.x.weight

    def hands(self, h: Any) -> Any:
        return self.y(h, self.x.inner, table=self.y)


def test_reading_and_handing() -> None:
    assert [reads_weights(one) for one in (Class.norm, Class.takes, Class.hands)] == [False, True, False]
    assert hands_over(Class.hands) == {"x.inner", "y"}
    assert hands_over(Class.takes) == frozenset()


def test_what_is_asked_of_a_weight_and_what_is_read() -> None:
    def read(text: str) -> bool:
        def inside(node: ast.AST) -> bool:
            return is_weight(node) or any(inside(child) for child in read_in(node))

        return inside(ast.parse(text, mode="eval").body)

    assert not any(
        read(text)
        for text in (
            "x.weight.dtype",
            "h.to(x.weight)",
            "isinstance(x.weight, T)",
            "h == x.weight[None]",
            "len(x.weight)",
        )
    )
    assert all(read(text) for text in ("h @ x.weight", "f(x.weight)", "x.weight[0].dtype", "h.to(x.weight * 2)"))


def test_a_function_without_source_has_no_definition() -> None:
    assert definition(len) is None
    assert not reads_weights(len)
