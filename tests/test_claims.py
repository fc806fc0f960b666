"""README's figures are those that `python -m benchmarks --record` wrote down."""

from __future__ import annotations

from pathlib import Path

import pytest
from side_by_side import BEGIN, END, PAGE, recorded, table

README = (Path(__file__).parent.parent / "README.md").read_text()
ROWS = recorded()


def times(ratio: float) -> str:
    """As README says how many times as long something takes."""
    return f"{ratio:.1f}"


@pytest.mark.parametrize(
    "claim",
    [
        f"{times(ROWS['merge-1.5b'].ratio)} times the time of `cp` and `sync` for a 1.5B model, "
        f"{times(ROWS['merge-0.5b'].ratio)} times for a 0.5B, {times(ROWS['merge-7b'].ratio)} times for a 7B",
        f"the 0.5B's in {ROWS['init-0.5b'].ours:.0f} seconds, for which PEFT needs the model in memory and "
        f"{ROWS['init-0.5b'].theirs:.0f}",
        f"{1 / ROWS['factor-separated'].ratio:.0f} times as fast as a full decomposition",
    ],
)
def test_readme_says_what_was_measured(claim: str) -> None:
    assert claim in " ".join(README.split())


def test_the_table_is_that_of_the_record() -> None:
    text = PAGE.read_text()
    assert table([*ROWS.values()]) in text[text.index(BEGIN) : text.index(END)]
