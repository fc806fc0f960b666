"""The same settings make the same plan, whoever asks."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

from fixture_data import fixture

from tinylora_tools.adapters.source import find_sources
from tinylora_tools.bases.base import open_base
from tinylora_tools.ops.merge.planned import Settings, planned
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.progress import NoProgress

#: Arguments of merge's that its tensors' bytes don't depend on.
OTHERS = {
    "adapters", "output", "base", "device", "threads", "verify_base", "manifest", "stream_base",
    "inplace_copy", "dry_run", "force", "progress",
}  # fmt: skip


def test_settings_are_all_that_bytes_depend_on() -> None:
    """Else what is recorded isn't enough to form a merge again. An architecture file is given around the call."""
    given = {"scales", "architecture", *(signature(merge).parameters.keys() - OTHERS)} - {"scale"}
    assert {f.name for f in fields(Settings)} == given


def test_a_plan_follows_its_settings() -> None:
    case = fixture("peft021-lm-head")
    plans = {}
    for tied, dtype in (("untie", "auto"), ("share", "auto"), ("untie", "float32")):
        settings = Settings((1.0,), dtype, tied)
        sources = find_sources(case.adapter)
        opened, plan, _ = planned(
            open_base(case.base), sources, settings, threads=None, keep_weights=False, progress=NoProgress()
        )
        plans[tied, dtype] = plan
        assert [one.path for one in opened] == [case.adapter]
    assert {plan.tied for plan in plans.values()} == {"untied", "shared"}
    assert plans["untie", "float32"].size > plans["untie", "auto"].size
