"""What went wrong for reasons outside this program."""

from __future__ import annotations

import pytest

from tinylora_tools.cli.shell.explained import LIBRARIES, explained


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there isn't enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "there isn't enough memory",
        ),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "there isn't enough memory"),
        (ImportError("No module named 'ml_dtypes'"), "a library can't be loaded: No module named 'ml_dtypes'"),
        (RuntimeError("can't start new thread"), "the system allows no more threads"),
        (RuntimeError("a bug"), None),
        (OSError(5, "Input/output error"), "reading or writing failed (Input/output error)"),
    ],
)
def test_limits_of_the_system_are_messages_and_bugs_are_not(error: Exception, said: str | None) -> None:
    found = explained(error)
    assert (None if found is None else found.what) == said
    assert found is None or found.hint


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_missing_is_named_with_what_installs_it(name: str) -> None:
    found = explained(ModuleNotFoundError(f"No module named '{name}.part'", name=f"{name}.part"))
    assert found is not None
    assert found.what == f"this needs {name}, which isn't installed"
    assert (found.hint or "").startswith(f"Install it: pip install {name}")
