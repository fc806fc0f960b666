"""Pictures of reports."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tinylora_tools.cli.screens.paragraph import Line, Span
from tinylora_tools.cli.screens.picture import picture

LINES: list[Line] = [
    (Span("Module", "bold"),),
    (Span("q_proj  "), Span(" 0.87%", "", 1.0)),
    (),
    (Span("<b> & done", "good"),),
]


def test_an_svg_is_xml_with_all_that_is_shown() -> None:
    drawn = picture(LINES, ".svg", "tinylora merge a&b -o <out>")
    text = " ".join("".join(ET.fromstring(drawn).itertext()).replace("\u00a0", " ").split())  # noqa: S314
    for part in ("Module", "q_proj", "0.87%", "<b> & done", "tinylora merge a&b -o <out>"):
        assert part in text


@pytest.mark.parametrize("ending", [".svg", ".html"])
def test_shades_are_colours(ending: str) -> None:
    assert "#ff5f00" in picture(LINES, ending, "x").lower()  # a terminal's colour 202
    assert "#ff5f00" not in picture([(Span("plain"),)], ending, "x").lower()


def test_html_is_whole() -> None:
    drawn = picture(LINES, ".html", "x")
    assert drawn.startswith("<!DOCTYPE html>")
    assert "&lt;b&gt; &amp; done" in drawn
