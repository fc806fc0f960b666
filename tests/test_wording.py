"""Arguments and functions as a caller from Python names them, or as whoever words them meanwhile does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tinylora_tools
from tinylora_tools.wording import argument, call, worded_by

PACKAGE = Path(tinylora_tools.__file__).parent


class Shouting:
    """Other words for the same."""

    def argument(self, name: str) -> str:
        return name.upper()

    def given(self, name: str, value: object) -> str:
        return f"{name.upper()} {value}"

    def call(self, function: str, positional: tuple[object, ...], arguments: Mapping[str, object]) -> str:
        return f"{function.upper()} {positional} {dict(arguments)}"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (lambda: argument("base"), "base"),
        (lambda: argument("base", ...), "base=..."),
        (lambda: argument("dtype", "float32"), "dtype='float32'"),
        (lambda: argument("force", True), "force=True"),
        (lambda: argument("seed", None), "seed=None"),
        (lambda: argument("settings", {"rank": ...}), "settings={'rank': ...}"),
        (lambda: call("verify_seed"), "tinylora_tools.verify_seed()"),
        (lambda: call("merge", Path("a"), "OUT", base=..., scale=2), "tinylora_tools.merge(a, OUT, base=..., scale=2)"),
    ],
)
def test_python_s_words(said: Callable[[], str], wanted: str) -> None:
    assert said() == wanted


def test_other_words_count_meanwhile_and_in_every_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        with worded_by(Shouting()):
            assert argument("base") == pool.submit(argument, "base").result() == "BASE"
            assert argument("base", 3) == "BASE 3"
            assert call("merge", "a", base=1) == "MERGE ('a',) {'base': 1}"
        assert pool.submit(argument, "base").result() == "base"
    with pytest.raises(KeyError), worded_by(Shouting()):
        raise KeyError
    assert argument("base", ...) == "base=..."


def test_words_may_be_nested() -> None:
    class Quiet(Shouting):
        def argument(self, name: str) -> str:
            return name.lower()

    with worded_by(Shouting()):
        with worded_by(Quiet()):
            assert argument("Base") == "base"
        assert argument("Base") == "BASE"


def test_messages_name_arguments_and_functions_that_there_are() -> None:
    """Every name in the source is a parameter of a public function, or a public function itself."""
    text = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.parts)
    public = {name: getattr(tinylora_tools, name) for name in tinylora_tools.__all__}
    known = {
        parameter for thing in public.values() if callable(thing) for parameter in inspect.signature(thing).parameters
    }
    named = set(re.findall(r"\bargument\([\"'](\w+)", text))
    assert len(named) > 10
    assert named <= known, named - known
    called = set(re.findall(r"\bcall\([\"'](\w+)", text))
    assert called
    assert called <= public.keys(), called - public.keys()
