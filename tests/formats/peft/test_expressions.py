"""Expressions match as `re` does, and what would take for ever ends in a message."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.peft import expressions
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.formats.peft.expressions import Expression, SlowExpressionError, expression

NAME = "model.layers.0.self_attn.q_proj"

#: Each takes longer than the universe has, on such a name.
SLOW = [
    "(.+)+X", "(.*)*X", "(.|.)*X", "(.|.)+X", "([a-z0-9._]+)*!", "(.?.?)*X", "(?:.+){1,99}X", "(?=.*proj)(.+)+X",
    "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)X", r"(.+)+\1X",
]  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(expressions, "PATIENCE", 0.1)
    expressions._compiled.cache_clear()
    yield
    expressions._compiled.cache_clear()


@pytest.mark.parametrize("text", SLOW)
def test_what_takes_for_ever_is_given_up(text: str) -> None:
    slow, started = Expression(text), time.process_time()
    with pytest.raises(SlowExpressionError) as caught:
        slow.fullmatch(NAME)
    assert caught.value.what == f"the expression {text!r} takes too long to match {NAME}: over 0.1 s"
    assert time.process_time() - started < 1
    started = time.process_time()
    for name in (f"{NAME}.{i}" for i in range(50)):  # its patience is for all names together
        with pytest.raises(SlowExpressionError):
            slow.match(name)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("field", ["target_modules", "modules_to_save", "layers_pattern"])
def test_every_field_that_holds_expressions(field: str) -> None:
    said: dict[str, Any] = {"target_modules": ["q_proj"], "layers_to_transform": [1], field: ["(.+)+X"]}
    said["target_modules"] = "(.+)+X" if field == "target_modules" else said["target_modules"]
    with pytest.raises(SlowExpressionError):
        TinyLoraConfig(**said).matches(NAME)


def test_timers_and_handlers_stay_as_they_were() -> None:
    def mine(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGVTALRM, mine)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000.0, 500.0)
    try:
        assert Expression(r"(.*\.)*q_proj").fullmatch(NAME)
        with pytest.raises(SlowExpressionError):
            Expression("(.+)+X").fullmatch(NAME)
        assert signal.getsignal(signal.SIGVTALRM) is mine
        left, every = signal.getitimer(signal.ITIMER_VIRTUAL)
        assert (990 < left <= 1000.1, every) == (True, 500.0)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_in_another_thread_it_matches_without_a_limit() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(Expression(r"(.*\.)*q_proj").fullmatch(NAME) is not None))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "text",
    [
        r".*\.(q|k|v)_proj", r"model\.layers\.\d+\.mlp.*", r".*layers\.[0-9]\..*proj", r"(^|.*\.)lm_head($|\..*)",
        "q_proj",
    ],
)  # fmt: skip
def test_what_people_write_costs_no_timer(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Expression, "_limited", None)
    assert bool(Expression(text).fullmatch(NAME)) == bool(re.fullmatch(text, NAME))


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", r"\w", "^", "$", r"\b"])


@st.composite
def patterns(draw: st.DrawFn, depth: int = 3) -> str:
    """Expressions of a few parts, repeated in one another as it comes."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(ATOMS)
    one, other = draw(patterns(depth - 1)), draw(patterns(depth - 1))
    repeated = f"({one})" + draw(st.sampled_from(["*", "+", "?", "{0,2}", "*?"]))
    return draw(st.sampled_from([one + other, f"({one}|{other})", repeated, f"(?!{one})"]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(patterns(), st.text("ab.", max_size=6))
def test_it_matches_as_re_does(text: str, name: str) -> None:
    ours = Expression(text)
    assert (ours.fullmatch(name) is None) == (re.fullmatch(text, name) is None)
    assert (ours.match(name) is None) == (re.match(text, name) is None)


@pytest.mark.parametrize("text", ["a(", "(" * 5000 + ")" * 5000, "a{99999999999999}", "*", "[", "(?P<a>x)(?P<a>y)"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(FormatError, match="is no regular expression: "):
        expression(text)
    with pytest.raises(FormatError, match=r"target_modules names .*, which is no expression: "):
        expression(text, "target_modules")
