"""`tinylora doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ..options import output_options
from ..output import Output
from ..screens.blocks import Block, Facts, Table, Text, columns
from ..screens.words import size
from ..shell.command import Command

if TYPE_CHECKING:
    from ...ops.doctor import DoctorReport


@click.command("doctor", cls=Command)
@output_options
def command(out: Output) -> None:
    """Show what this machine has, to paste into a bug report.

    Versions, the CPU and the arithmetic that its torch draws P with, devices, free memory and disk, and the Hub's login
    and cache. Nothing is sent anywhere, and no token is shown.

    \b
    Examples:
      tinylora doctor
      tinylora doctor --format markdown
    """
    from ...ops.doctor import doctor

    out.report(doctor(), _render, rows="libraries")


def _render(report: DoctorReport) -> Iterator[Block]:
    capability = f" ({report.cpu_capability})" if report.cpu_capability else ""
    facts = {
        "Python": f"{report.python}, {report.executable}",
        "System": f"{report.system}, {report.machine}, {report.cpus} CPUs",
        "Torch draws": (report.stream or "unknown") + capability,
        "Devices": ", ".join(report.devices) or "unknown",
        "Memory": f"{_size(report.memory_free)} free of {_size(report.memory)}",
        "Disk here": f"{_size(report.disk_free)} free",
        "Hub": report.hub,
        "Hub's cache": f"{report.hub_cache}, {_size(report.hub_cache_free)} free" if report.hub_cache else "unknown",
    }
    if report.settings:
        facts["Environment"] = ", ".join(f"{name}={value}" for name, value in report.settings.items())
    yield Facts("tinylora-tools", report.version, facts)
    rows = [(name, one.version or "not installed") for name, one in report.libraries.items()]
    yield Table(columns("Library", "Version", texts=("Library", "Version")), rows)
    for problem in report.problems:
        yield Text(problem, "bad")


def _size(count: int | None) -> str:
    return "unknown" if count is None else size(count)
