"""Do projections reproduce: on this machine, or those of an adapter."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...adapters import soundness
from ...adapters.load import Adapter, ModuleOrder
from ...adapters.source import find_source
from ...bases.base import Base, open_base
from ...checks import one_of
from ...errors import UndeterminedError
from ...formats.peft.release import Seeding
from ...inputs import watches_inputs
from ...progress import Progress
from ...sources.locate import expanded, locate
from ...wording import argument
from ..opened import AdapterLike
from .adapter import AdapterVerdict, verify_adapter
from .check import Check
from .golden import compare, record
from .machine import DEVICES, verify_machine
from .recover import recover_offset
from .worker import merged_elsewhere


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`ok` is true when every check is; `skipped` names what this machine hasn't got."""

    ok: bool
    checks: list[Check]
    skipped: list[str]
    adapter: AdapterVerdict | None
    warnings: list[str]


@watches_inputs
def verify_seed(
    adapter: AdapterLike | None = None,
    *,
    base: str | Path | Base | None = None,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    against: str | Path | None = None,
    tolerance: float = 1e-5,
    device: str = "all",
    golden: str | Path | None = None,
    record_to: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Verify this machine, or an adapter.

    Parameters
    ----------
    adapter : path, or open adapter, optional
        Without one, this machine is verified.
    base, module_order, first_adapter
        Tell the order of the adapter's modules; with `base`, a merge's bytes are computed at other numbers of threads
        and CPU features, and compared.
    seeding
        As `load_adapter`.
    against : path, optional
        For an adapter of PEFT 0.19 without P: a merged checkpoint, or an adapter with P, to recover the seed from.
    tolerance : float
        How much an update may differ between streams, relative to its norm, where P isn't stored.
    device : str
        "all", "cpu", "cuda", "mps" or "xpu".
    golden, record_to : path, optional
        A golden file to check against, or to write.
    force : bool
        Replace an existing golden file.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound or whose order isn't known, and for files that don't do.
    """
    one_of("device", device, ("all", "cpu", *DEVICES))
    skipped: list[str] = []
    verdict, notes = None, tuple[str, ...]()
    at = None if base is None else open_base(base, afar=True).require_model()
    if adapter is None:
        checks, skipped = verify_machine(device)
    else:
        opened = find_source(adapter).open(
            at,
            module_order=module_order,
            first_adapter=first_adapter,
            seeding=seeding,
            in_memory=at is not None,
            progress=progress,
        )
        soundness.check(opened)
        soundness.check_factors(opened)
        notes = opened.notes
        verdict, checks = _verify(opened, at, against, tolerance)
    if record_to is not None:
        record(checks, expanded(record_to), force=force)
    if golden is not None:
        checks = [*checks, *compare(checks, locate(golden))]
    return VerifyReport(all(check.ok for check in checks), checks, skipped, verdict, list(notes))


def _verify(
    adapter: Adapter, base: Base | None, against: str | Path | None, tolerance: float
) -> tuple[AdapterVerdict, list[Check]]:
    verdict, checks = verify_adapter(adapter, tolerance)
    if against is not None:
        straddling = adapter.header.has_config and verdict.regime == "unknown"  # it may be lost
        if verdict.regime != "shared-projection" and not straddling:
            what = f"{argument('against')} recovers a lost seed; this adapter's isn't lost"
            raise UndeterminedError(what, where=adapter.path)
        offset = recover_offset(adapter, against, base)
        found = Check("seed", "cpu", None, True, None, None, None, f"recovered: {verdict.seed} + {offset}")
        return replace(verdict, offset=offset), [found, *(check for check in checks if check.name != "seed")]
    if base is not None and not any(check.name == "seed" for check in checks):  # a lost seed can't be merged
        checks = [*checks, *_merge_checks(adapter, base)]
    return verdict, checks


def _merge_checks(adapter: Adapter, base: Base) -> list[Check]:
    """The merged bytes at other numbers of threads, and with NumPy kept from this CPU's newer instructions."""
    base.require_directory()
    ways: list[tuple[str, int, dict[str, str]]] = [("1 thread", 1, {}), ("3 threads", 3, {})]
    if dispatched := _cpu_features():
        ways.append(("baseline CPU", 2, {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched)}))
    digests = [merged_elsewhere(adapter, base, threads=n, environment=settings) for _, n, settings in ways]
    return [
        _same_bytes(label, digest, digests[0], ways[0][0]) for (label, *_), digest in zip(ways, digests, strict=True)
    ]


def _same_bytes(label: str, digest: str, first: str, first_label: str) -> Check:
    same = digest == first
    note = "" if same else f"other bytes than with {first_label}"
    hint = None if same else "This is a fault of tinylora-tools, or of the NumPy below it: report it with this output."
    return Check(f"merged bytes, {label}", "cpu", None, same, same, None, None, note, digest, hint)


def _cpu_features() -> Sequence[str]:
    """The instruction sets that NumPy chooses between at run time and this CPU has."""
    numpy_cpu = importlib.import_module("numpy._core._multiarray_umath")
    features = getattr(numpy_cpu, "__cpu_features__", {})
    return [name for name in getattr(numpy_cpu, "__cpu_dispatch__", []) if features.get(name)]
