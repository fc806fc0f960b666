"""Make docs/pictures: what README shows.

python scripts/make_pictures.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
ADAPTER = "fixtures/peft021-13-numbers/adapter"

#: Commands whose screens are drawn by --save; OUT stands for a place to write.
SCREENS = {
    "inspect": ["inspect", ADAPTER, "--rows", "kinds"],
    "merge": ["merge", ADAPTER, "-o", "OUT", "--rows", "kinds"],
}

_DRAWING = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 195" font-family="sans-serif" font-size="15">
<title>W + B R A</title>
<g fill="#dfe3ea" stroke="#5c6773">
<rect x="20" y="30" width="120" height="120"/><rect x="250" y="30" width="24" height="120"/>
<rect x="410" y="30" width="120" height="24"/>
</g>
<rect x="330" y="30" width="24" height="24" fill="#ffb454" stroke="#b06d00"/>
<g fill="#8a919c" font-size="24"><text x="185" y="98">+</text><text x="295" y="50">&#183;</text>
<text x="375" y="50">&#183;</text></g>
<g fill="#5c6773" text-anchor="middle">
<text x="80" y="96" font-size="26">W</text><text x="262" y="96" font-size="20">B</text>
<text x="470" y="48" font-size="18">A</text><text x="342" y="48" font-size="17" fill="#5a3800">R</text>
<text x="80" y="175">frozen</text><text x="262" y="175">U&#8730;S, frozen</text>
<text x="470" y="80">&#8730;S V&#7488;, frozen</text><text x="342" y="80">r &#215; r</text>
</g>
<g fill="#5c6773">
<text x="320" y="115">R = v&#8321;P&#8321; + v&#8322;P&#8322; + ... + v&#8321;&#8323;P&#8321;&#8323;</text>
<text x="320" y="140">P: random, drawn from a seed</text>
<text x="320" y="165" fill="#b06d00">v: all that is trained, 13 numbers for the whole model</text></g>
</svg>
"""


def pictures() -> dict[str, str]:
    """Each picture's SVG, by its name."""
    found = {"update": _DRAWING}
    for name, words in SCREENS.items():
        with tempfile.TemporaryDirectory() as directory:
            drawn = Path(directory) / "screen.svg"
            line = [word.replace("OUT", f"{directory}/merged") for word in words]
            command = [sys.executable, "-m", "tinylora_tools", *line, "--save", str(drawn), "-q"]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            svg = without_place(drawn.read_text("utf-8"), f"{directory}/")
            found[name] = re.sub(r"terminal-\d+", f"terminal-{name}", svg)  # which hangs on the place
    return found


def without_place(svg: str, directory: str) -> str:
    """A picture without what differs from run to run: where it was made, how long it took, and what the command was."""
    svg = svg.replace(directory, "")
    svg = re.sub(r"(in&#160;)\d+\.\d\d(&#160;s)", r"\g<1>0.30\2", svg)
    return re.sub(r"&#160;--save&#160;\S+?&#160;-q| --save \S+ -q", "", svg)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (PICTURES / f"{name}.svg").write_text(svg, "utf-8")
    print(f"{len(SCREENS) + 1} pictures")


if __name__ == "__main__":
    main()
