"""Families of models, built small, through every command beside transformers' and PEFT's own results."""

from __future__ import annotations

import datetime
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from family_runs import SHAPES, FamilyRun, switched

pytestmark = pytest.mark.filterwarnings("ignore")

#: What each command made of each family when they were all run, `python benchmarks/families.py`.
RECORDED: dict[str, dict[str, dict[str, str]]] = json.loads(
    (Path(__file__).parent.parent / "benchmarks" / "families.json").read_text()
)["families"]

#: Families that a run of the ordinary tests takes, others each day.
SAMPLE = 2


def sampled() -> list[Any]:
    """Parameters for all families that could be run, all but the day's sample behind the slow mark."""
    chosen = set(random.Random(datetime.date.today().toordinal()).sample(sorted(RECORDED), SAMPLE))
    return [pytest.param(one, marks=[] if one in chosen else [pytest.mark.slow], id=one) for one in sorted(RECORDED)]


def test_enough_families_are_run_and_none_comes_out_wrong() -> None:
    assert len(RECORDED) >= 60
    wrong = {
        (family, shape): found
        for family, shapes in RECORDED.items()
        for shape, found in shapes.items()
        if any(outcome.startswith("wrong") for outcome in found.values())
    }
    assert wrong == {}


@pytest.mark.parametrize("family", sampled())
def test_each_command_is_right_or_says_why_not(family: str, tmp_path: Path) -> None:
    for shape, settings in SHAPES.items():
        run = FamilyRun(family, tmp_path / shape, **settings)
        found = {command: outcome.partition(":")[0] for command, outcome in run.run().items()}
        assert found == RECORDED[family][shape], shape


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(RECORDED))
def test_whatever_a_configuration_switches_nothing_comes_out_wrong(family: str, tmp_path: Path) -> None:
    for path, changes in switched(family):
        run = None
        with suppress(Exception):  # a model that can't be built, or run, so
            run = FamilyRun(family, tmp_path / path, changes=changes)
        outcomes = run.run("merge", "convert lora") if run is not None and run.effect > 0 else {}
        assert not [said for said in outcomes.values() if said.startswith("wrong")], path


def test_a_bloom_whose_weights_are_sliced_is_refused(tmp_path: Path) -> None:
    """As pretraining_tp and slow_but_exact decide together."""
    for slow_but_exact, outcome in ((False, "right"), (True, "refused: transformer.h.0.mlp.dense_4h_to_h")):
        changes = {"pretraining_tp": 2, "slow_but_exact": slow_but_exact}
        run = FamilyRun("bloom", tmp_path / str(slow_but_exact), changes=changes)
        assert all(said.startswith(outcome) for said in run.run("merge", "convert lora").values())
