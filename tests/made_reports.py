"""Reports with figures that no machine changes, and what the command line makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tinylora_tools.cli import count, factor, inspect, merge, verify_base, verify_output, verify_seed
from tinylora_tools.cli.screens.blocks import Block
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.ops.create.count import count as counted
from tinylora_tools.ops.factor import FactorReport, ModuleFactors
from tinylora_tools.ops.inspect.run import inspect as inspected
from tinylora_tools.ops.merge.report import MergedModule, MergeReport
from tinylora_tools.ops.merge.verify_output import Difference, OutputReport
from tinylora_tools.ops.verify.adapter import AdapterVerdict
from tinylora_tools.ops.verify.base import BaseReport, ModuleVerdict
from tinylora_tools.ops.verify.check import Check
from tinylora_tools.ops.verify.recorded import Record, TensorDifference
from tinylora_tools.ops.verify.seed import VerifyReport

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
MODULES = [f"model.language_model.layers.{layer}.{kind}" for layer in range(24) for kind in KINDS]


def base_report() -> BaseReport:
    """Most factors are this base's, some weights have moved, one can't be compared."""

    def verdict(i: int, name: str) -> ModuleVerdict:
        if i == 7:
            note = "its weight is quantized (4 bits, bitsandbytes)"
            return ModuleVerdict(name, "unknown", None, None, None, None, None, "bfloat16", "", note)
        moved = i % 31 == 0
        return ModuleVerdict(
            name, "fine-tuned" if moved else "same-weights", f"{name}.weight", 1.2e-2 / (1 + i),
            0.875 if moved else 1.0, 7.5e-5 * moved, 2.4e-1 / (1 + i), "bfloat16", "bfloat16",
            "two roundings hide smaller changes" if i % 13 == 5 else "",
        )  # fmt: skip

    modules = [verdict(i, name) for i, name in enumerate(MODULES)]
    return BaseReport(
        "runs/adapter",
        "models/Base-7B",
        "fine-tuned",
        False,
        all_tensors=True,
        tensors=len(modules) + 3,
        records=[Record("manifest", "models/merged/tinylora-manifest.json", len(modules) + 2)],
        differences=[TensorDifference("model.norm.weight", "manifest", "this tensor was changed")],
        not_compared=["lm_head.weight"],
        modules=modules,
        recomputed=len(modules) - 1,
        largest_rho=1.2e-2,
        seconds=3.5,
        warnings=["P isn't stored"],
    )


def seed_report() -> VerifyReport:
    """Of an adapter whose P was changed in one module, on another machine than the golden file's."""
    avx2, scalar = "torch-cpu-avx2", "torch-cpu-scalar"
    changed = "Get the adapter from where it was made, and compare the files' sha256."
    checks = [
        Check("stored P", "cpu", avx2, False, False, 8388608, 1.2e-3, "95 of 96 modules alike", None, changed),
        Check("stored P", "cpu", scalar, True, False, 9000000, 1.4e-3, "80 of 96 modules alike"),
        Check(f"P of {MODULES[9]}", "cpu", avx2, False, False, 8388608, 1e-3, "differs from its seed's: 42 + 9"),
        Check("module order", "cpu", None, True, True, None, None, "the order of qwen3"),
        Check(
            "golden: stored P, torch-cpu-avx2", "cpu", avx2, False, False, 8388608, 1.2e-3,
            "recorded torch-cpu-avx2, here 0123456789abcdef", None, "Record it again where the adapter was made.",
        ),
    ]  # fmt: skip
    verdict = AdapterVerdict("seed-plus-index", "torch-cpu-avx2", "bfloat16", 42, None, 96, 95, [MODULES[9]])
    return VerifyReport(False, checks, ["cuda: not on this machine", "mps: not on this machine"], verdict, [])


def factor_report() -> FactorReport:
    def module(i: int, name: str) -> ModuleFactors:
        first = 4.0 + i % 5 / 10
        spectrum = [first, first / 2, first / 3, first / 5, first / 9]
        return ModuleFactors(name, [4096, 1024], 2, "krylov", 6, 2e-7, 9e-2, 0, spectrum[:2], spectrum, 0.1, False)

    modules = [module(i, name) for i, name in enumerate(MODULES)]
    return FactorReport("factors.safetensors", 103_000_000, 2, "cpu", modules, 3, 12.3, [])


def merge_report() -> MergeReport:
    modules = [
        MergedModule(name, f"{name}.weight", 0.5, 40.0 + 3 * (i % 5), 0.0023 * (1 + i % 7), 1.2e-7)
        for i, name in enumerate(MODULES)
    ]
    return MergeReport(
        "merged", "models/Base-7B", ["runs/adapter"], False, 96, 0, 243, 0, 15_200_000_000, 21.4, "kept", None, 0.0087,
        modules, [],
    )  # fmt: skip


def output_report() -> OutputReport:
    told = [Difference("output", f"{name}.weight", "other bytes than recorded") for name in MODULES]
    return OutputReport("merged", False, 7, 339, True, False, 0, told, [])


Made = Callable[[], tuple[Any, Callable[[Any], Iterable[Block]], str | None]]

#: By name: a report, what renders it, and the key of its rows.
MADE: dict[str, Made] = {
    "inspect-adapter": lambda: (inspected("fixtures/peft021-13-numbers/adapter"), inspect._render, "modules"),
    "inspect-checkpoint": lambda: (inspected("fixtures/bases/llama-sharded-bf16"), inspect._render, "layers"),
    "count": lambda: (counted("fixtures/bases/qwen2-bf16", _all_linear()), count._render, "groups"),
    "count-budget": lambda: (
        counted("fixtures/bases/qwen2-bf16", _all_linear(), budget=2),
        count._render,
        "settings",
    ),
    "factor": lambda: (factor_report(), factor._render, "modules"),
    "merge": lambda: (merge_report(), lambda report: merge._render(report, False), "modules"),
    "merge-maps": lambda: (merge_report(), lambda report: merge._render(report, True), "modules"),
    "verify-base": lambda: (base_report(), verify_base._render, "modules"),
    "verify-output": lambda: (output_report(), verify_output._render, "differences"),
    "verify-seed": lambda: (seed_report(), verify_seed._render, "checks"),
}


def _all_linear() -> TinyLoraConfig:
    return TinyLoraConfig(target_modules="all-linear")
