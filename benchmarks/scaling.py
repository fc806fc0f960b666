"""Cost against size: four sizes of one kind of model, and the slope between them, as a picture.

The sizes are 3, 6, 12 and 24 layers of the 0.5B's shapes with a vocabulary of 1,000, so that what is adapted is nearly
all there is. `inspect` sees headers of 6,250 to 50,000 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from html import escape
from pathlib import Path

import models
from side_by_side import Row, command, tinylora

PICTURE = Path(__file__).with_name("cost.svg")

LAYERS = (3, 6, 12, 24)
TENSORS = (6_250, 12_500, 25_000, 50_000)

#: Seconds by size; a curve for each command.
Curves = Mapping[str, Sequence[tuple[float, float]]]


def made(directory: Path, layers: int) -> tuple[Path, Path]:
    hidden, inner, _, heads, kv_heads, _, tied = models.SHAPES["0.5b"]
    models.SHAPES[f"{layers}-layers"] = (hidden, inner, layers, heads, kv_heads, 1_000, tied)
    return models.make(directory, f"{layers}-layers")


def curves(directory: Path, runs: int) -> dict[str, list[tuple[float, float]]]:
    """The best of the runs: what is drawn is the cost, not the noise."""
    import inspect_sources

    found: dict[str, list[tuple[float, float]]] = {}

    def point(name: str, size: float, *words: object, output: Path | None = None) -> None:
        work = tinylora(*words, output=output)
        found.setdefault(name, []).append((size, min(work.seconds() for _ in range(runs))))

    for layers in LAYERS:
        base, adapter = models.apart(made, directory, layers)
        gigabytes = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 1e9
        out = directory / "scaled"
        point("merge, GB", gigabytes, "merge", adapter, "--base", base, "-o", out, "-q", output=out)
        point(
            "init, GB",
            gigabytes,
            "init",
            base,
            "-o",
            out,
            "-r",
            2,
            "-u",
            13,
            "--target-modules",
            "all-linear",
            "-q",
            output=out,
        )
        point("verify-base, GB", gigabytes, "verify-base", adapter, "--base", base, "-q")
        words = ("convert", "packed", adapter, "--base", base, "-o", directory / "scaled.safetensors")
        point("convert packed, GB", gigabytes, *words, "-q", "-f", "--no-cache")
    for count in TENSORS:
        place = directory / f"{count}-tensors"
        if not place.exists():
            place.mkdir()
            inspect_sources.make_checkpoint(place, count // 250, count)
        point("inspect, 10,000 tensors", count / 1e4, "inspect", place, "--json")
    return found


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: what is paid for nothing, and for each unit of size."""
    n, x, y = len(points), sum(p[0] for p in points), sum(p[1] for p in points)
    xx, xy = sum(p[0] ** 2 for p in points), sum(p[0] * p[1] for p in points)
    slope = (n * xy - x * y) / (n * xx - x * x)
    return (y - slope * x) / n, slope


def exponent(points: Sequence[tuple[float, float]], start: float) -> float:
    """Between the smallest and the largest, without the start: 1 where cost grows as size does."""
    (small, first), (large, last) = points[0], points[-1]
    return math.log(max(last - start, 1e-9) / max(first - start, 1e-9)) / math.log(large / small)


def rows(directory: Path, runs: int) -> Iterator[Row]:
    """A row a command: seconds at the largest size beside the line through all four; and the picture."""
    found = curves(directory, runs)
    PICTURE.write_text(picture(found))
    empty = command("true").seconds()
    for name, points in found.items():
        start, slope = line_through(points)
        what, _, unit = name.partition(", ")
        expected = start + slope * points[-1][0]
        yield Row(
            f"cost-{what.replace(' ', '-')}",
            f"{what}: {start:.2f} s, and {slope:.2f} s a {unit.removeprefix('a ')}",
            points[-1][1],
            "the line through four sizes",
            expected,
            points[-1][1] / expected,
            f"as size to the power of {exponent(points, max(start, empty)):.2f}",
            date.today().isoformat(),
        )


def picture(found: Curves) -> str:
    """Both axes logarithmic, a curve each: cost that grows as size does is parallel to the dashed line."""
    width, height, margin, names = 720, 420, 60, 270
    sizes = [x for points in found.values() for x, _ in points]
    times = [y for points in found.values() for _, y in points]
    left, right = math.log10(min(sizes)) - 0.1, math.log10(max(sizes)) + 0.1
    low, high = math.log10(min(times)) - 0.1, math.log10(max(times)) + 0.1

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - left) / (right - left)
        up = (math.log10(y) - low) / (high - low)
        return margin + across * (width - names - margin), height - margin - up * (height - 2 * margin)

    colours = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Seconds against size</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{margin}" y="24" font-size="14">Seconds against size, both logarithmic</text>',
        f'<text x="{margin}" y="{height - 14}">GB of weights, or tens of thousands of tensors; dashed: twice the size, '
        "twice the time</text>",
    ]
    for value in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if low <= math.log10(value) <= high:
            _, y = at(10**left, value)
            parts.append(f'<line x1="{margin}" x2="{width - names}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
            parts.append(f'<text x="{margin - 8}" y="{y + 4:.0f}" text-anchor="end">{value:g} s</text>')
    for value in (0.1, 0.2, 0.5, 1, 2, 5):
        if left <= math.log10(value) <= right:
            x, _ = at(value, 10**low)
            parts.append(f'<text x="{x:.0f}" y="{height - margin + 18}" text-anchor="middle">{value:g}</text>')
    begin = at(10**left, 10**low)
    span = min(right - left, high - low)
    end = at(10 ** (left + span), 10 ** (low + span))
    parts.append(
        f'<line x1="{begin[0]:.0f}" y1="{begin[1]:.0f}" x2="{end[0]:.0f}" y2="{end[1]:.0f}" stroke="#888" '
        'stroke-dasharray="4 4"/>'
    )
    ends = sorted((at(*points[-1])[1], name) for name, points in found.items())
    places: dict[str, float] = {}
    for y, name in ends:  # names below each other where curves end close together
        places[name] = max([y, *(place + 15 for place in places.values())])
    for (name, points), colour in zip(found.items(), colours, strict=False):
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (at(*p) for p in points)]
        what, _, unit = name.partition(", ")
        label = escape(f"{what}: {line_through(points)[1]:.2f} s for {unit if ' ' in unit else f'a {unit}'}")
        parts.append(f'<text x="{width - names + 6}" y="{places[name] + 4:.0f}" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])
