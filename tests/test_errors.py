"""Messages for a person: where, what, and what to do next."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import tinylora_tools
from tinylora_tools import errors
from tinylora_tools.errors import FormatError, TinyLoraError

KINDS = [FormatError, errors.MismatchError, errors.UndeterminedError, errors.UnsupportedError, errors.OutputError]


def test_where_comes_before_what() -> None:
    error = FormatError("is damaged", where=Path("dir") / "file", hint="Get it again.")
    assert (str(error), error.what, error.where, error.hint) == (
        "dir/file: is damaged", "is damaged", "dir/file", "Get it again."
    )  # fmt: skip
    alone = FormatError("is damaged")
    assert (str(alone), alone.where, alone.hint) == ("is damaged", None, None)


def test_one_name_catches_them_all_and_no_bug() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert defined == {TinyLoraError, *KINDS}
    for kind in KINDS:
        assert kind.__bases__ == (TinyLoraError,)
        assert getattr(tinylora_tools, kind.__name__) is kind
        with pytest.raises(TinyLoraError):
            raise kind("what")
    assert TinyLoraError.__bases__ == (Exception,)


@pytest.mark.parametrize("kind", [TinyLoraError, *KINDS])
def test_they_cross_processes(kind: type[TinyLoraError]) -> None:
    """verify-seed, and whoever works in several processes, gets them pickled."""
    error = pickle.loads(pickle.dumps(kind("what", where="where", hint="hint")))
    assert type(error) is kind
    assert (str(error), error.what, error.where, error.hint) == ("where: what", "what", "where", "hint")
