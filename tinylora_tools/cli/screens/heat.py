"""A figure of every module as a heat map: a row a layer, a column a kind of module."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .blocks import Cell, Column, Table
from .words import kind_of


def heat_map(figures: Mapping[str, float], written: Callable[[float], str]) -> Table:
    """The table of figures by module; what is largest is darkest. Modules outside of numbered layers stand in a row of
    their own."""
    most = max(figures.values(), default=0.0)
    kinds = list(dict.fromkeys(map(kind_of, figures)))
    layers: dict[str, dict[str, list[float]]] = {}
    for module, figure in figures.items():
        layers.setdefault(_layer(module), {}).setdefault(kind_of(module), []).append(figure)

    def cell(found: list[float] | None) -> Cell:  # of several, experts say, the largest
        return Cell(written(max(found)), max(found) / most if most else 0.0) if found else Cell("")

    rows: list[list[str | Cell]] = [
        [layer, *(cell(of.get(kind)) for kind in kinds)] for layer, of in sorted(layers.items(), key=_place)
    ]
    return Table((Column("Layer", "name"), *map(Column, kinds)), rows, of="layer", whole=True)


def _place(layer: tuple[str, object]) -> tuple[bool, str, int]:
    """What sorts layers by their numbers, and what is in none to the end."""
    name, _, number = layer[0].rpartition(".")
    return not name, name, int(number) if number.isdigit() else 0


def _layer(module: str) -> str:
    """What a module's name has up to its first number; `layers.0` of model.layers.0.mlp.up_proj."""
    parts = module.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "-" if place is None else ".".join(parts[max(0, place - 1) : place + 1])
