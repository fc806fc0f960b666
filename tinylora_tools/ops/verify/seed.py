"""Do projections reproduce: on this machine, or those of an adapter."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...adapters.load import config_of_base, load_adapter
from ...errors import TinyLoraError, UndeterminedError
from .adapter import AdapterVerdict, verify_adapter
from .golden import compare, record
from .machine import Check, verify_machine
from .recover import recover_offset


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`ok` is true when every check is; `skipped` names what this machine hasn't got."""

    ok: bool
    checks: list[Check]
    skipped: list[str]
    adapter: AdapterVerdict | None
    warnings: list[str]


def verify_seed(
    adapter: Path | None = None,
    *,
    base: Path | None = None,
    module_order: Sequence[str] | None = None,
    against: Path | None = None,
    tolerance: float = 1e-5,
    device: str = "all",
    golden: Path | None = None,
    record_to: Path | None = None,
    force: bool = False,
) -> VerifyReport:
    """Verify this machine, or an adapter.

    Parameters
    ----------
    adapter : Path, optional
        Without one, this machine is verified.
    base, module_order
        Tell the order of the adapter's modules; with `base`, the merge is repeated at other numbers of threads and CPU
        features, and its bytes are compared.
    against : Path, optional
        For an adapter of PEFT 0.19 without P: a merged checkpoint, or an adapter with P, to recover the seed from.
    tolerance : float
        How much an update may differ between streams, relative to its norm, where P isn't stored.
    device : str
        "all", "cpu", "cuda", "mps" or "xpu".
    golden, record_to : Path, optional
        A golden file to check against, or to write.
    """
    skipped: list[str] = []
    verdict = None
    if adapter is None:
        checks, skipped = verify_machine(device)
    else:
        loaded = load_adapter(adapter, base_config=config_of_base(base), module_order=module_order)
        verdict, checks = verify_adapter(loaded, tolerance)
        if against is not None:
            if verdict.regime != "shared-projection":
                raise UndeterminedError("--against recovers a lost seed; this adapter's isn't lost", where=adapter)
            offset = recover_offset(loaded, against, base)
            verdict = replace(verdict, offset=offset)
            note = f"recovered: {verdict.seed} + {offset}"
            found = Check("seed", "cpu", None, ok=True, identical=None, max_ulp=None, max_abs=None, note=note)
            checks = [found, *(check for check in checks if check.name != "seed")]
        elif base is not None and not any(check.name == "seed" for check in checks):  # a lost seed can't be merged
            checks += _merge_checks(adapter, base, module_order)
    if record_to is not None:
        record(checks, record_to, force=force)
    if golden is not None:
        checks = [*checks, *compare(checks, golden)]
    return VerifyReport(all(check.ok for check in checks), checks, skipped, verdict, [])


def _merge_checks(adapter: Path, base: Path, module_order: Sequence[str] | None) -> list[Check]:
    """The merged bytes at other numbers of threads, and with NumPy kept from this CPU's newer instructions."""
    dispatched = _cpu_features()
    ways: list[tuple[str, list[str], dict[str, str]]]
    ways = [("1 thread", ["--threads", "1"], {}), ("3 threads", ["--threads", "3"], {})]
    if dispatched:
        ways.append(("baseline CPU", ["--threads", "2"], {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched)}))
    checks: list[Check] = []
    for label, options, settings in ways:
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-m", "tinylora_tools", "merge", str(adapter.resolve()), "-q", *options]
            command += ["--base", str(base.resolve()), "-o", f"{directory}/merged"]
            if module_order is not None:
                order = Path(directory) / "order"
                order.write_text("\n".join(module_order))
                command += ["--module-order", str(order)]
            run = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
            if run.returncode:
                raise TinyLoraError("the merge failed: " + run.stderr.strip().removeprefix("error: "))
            written = sorted(Path(directory).glob("merged/*.safetensors"))
            merged = hashlib.sha256("".join(map(_file_digest, written)).encode()).hexdigest()
        same = merged == (checks[0].digest if checks else merged)
        note = "" if same else f"other bytes than with {ways[0][0]}"
        checks.append(Check(f"merged bytes, {label}", "cpu", None, same, same, None, None, note, merged))
    return checks


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpu_features() -> list[str]:
    """The instruction sets that NumPy chooses between at run time and this CPU has."""
    numpy_cpu = importlib.import_module("numpy._core._multiarray_umath")
    features = getattr(numpy_cpu, "__cpu_features__", {})
    return [name for name in getattr(numpy_cpu, "__cpu_dispatch__", []) if features.get(name)]
