"""What PEFT's releases do otherwise with TinyLoRA, told by the peft_version that an adapter's configuration names.

====================================  =====================  =====================  ==================
release                               seed of P              added adapters number  trained biases
====================================  =====================  =====================  ==================
0.18.2.dev0 (with TinyLoRA) to 0.19.1  salted                 by the first adapter   aren't saved
0.19.2.dev0                           by commit (peft#3180)  by commit (#3422)      aren't saved
0.20.0                                index                  by themselves          aren't saved
0.20.1.dev0                           index                  by themselves          by commit (#3490)
0.21.0 on                             index                  by themselves          are saved
====================================  =====================  =====================  ==================

A development version's commit stands behind an @, if PEFT was installed from one; `data/peft_commits.json` has those of
the two versions that straddle a change, made by scripts/make_peft_commits.py.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

Seeding = Literal["index", "salted"]

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?P<dev>\.dev\d+)?.*?(?:@(?P<commit>[0-9a-f]{7,40}))?")

#: Commits that changed something, and the development versions that straddle them.
_SEEDS = ((0, 19, 2), "0.19.2.dev0", "76c37d4686cf")
_NUMBERS = ((0, 19, 2), "0.19.2.dev0", "aee16509f9a4")
_BIASES = ((0, 20, 1), "0.20.1.dev0", "4ddb88b47baa")


def seeding(version: str) -> Seeding | None:
    """What P of a first adapter is drawn from: projection_seed and the module's "index", or a "salted" hash, which is
    lost with the process; None where the version straddles the change and its commit isn't known."""
    after = _is_after(version, *_SEEDS)
    return None if after is None else "index" if after else "salted"


def numbers_by_first(version: str) -> bool | None:
    """Whether an adapter that is added to another is numbered as that one is; None where that isn't known."""
    after = _is_after(version, *_NUMBERS)
    return None if after is None else not after


def saves_biases(version: str) -> bool | None:
    """Whether trained biases are saved; None where that isn't known."""
    return _is_after(version, *_BIASES)


def _is_after(version: str, straddling: tuple[int, int, int], name: str, change: str) -> bool | None:
    """Whether a version has a change that came during a development version."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return None
    numbers = (int(match[1]), int(match[2]), int(match[3] or 0))
    if numbers != straddling:
        return numbers > straddling
    commits = _commits()[name]
    at = next((i for i, commit in enumerate(commits) if _same(commit, match["commit"])), None)
    return None if at is None else at >= commits.index(change)


def _same(commit: str, said: str | None) -> bool:
    return said is not None and (said.startswith(commit) or commit.startswith(said))


@lru_cache(maxsize=1)
def _commits() -> dict[str, list[str]]:
    text = (Path(__file__).parents[2] / "data" / "peft_commits.json").read_text("utf-8")
    found: dict[str, list[str]] = json.loads(text)
    return found
