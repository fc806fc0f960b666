"""docs/messages.md quotes what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    row.split(" | ")[0].removeprefix("| ")
    for row in (ROOT / "docs" / "messages.md").read_text().splitlines()
    if row.startswith("| ") and not row.startswith("| Message")
]


@pytest.fixture(scope="module")
def said() -> str:
    """All texts of the package, with a gap where something is put in."""
    found = []
    for path in (ROOT / "tinylora_tools").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("quoted", ROWS)
def test_each_message_is_one(quoted: str, said: str) -> None:
    assert quoted in said


def test_links_of_the_page_have_their_headings() -> None:
    text = (ROOT / "docs" / "messages.md").read_text()
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", text):
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), re.M)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert len(ROWS) > 20
