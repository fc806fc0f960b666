"""What mkdocs does besides to make a site of docs/ and of the documents around it: see mkdocs.yml.

Pages link to each other as they lie in the repository. README.md is the site's first page, other documents outside
docs/ that are linked to are pages too, and links to anything else become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

#: Documents outside docs/, and what they are in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
    "examples/README.md": "examples/index.md",
    "fixtures/README.md": "fixtures/index.md",
}

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the documents outside docs/."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links of the repository into those of the site."""
    place = page.file.src_uri
    sources = {site: source for source, site in OUTSIDE.items()}
    here = posixpath.dirname(sources.get(place, f"docs/{place}"))

    def linked(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if "://" in target or target.startswith("#"):
            return match[0]
        path, hash_, anchor = target.partition("#")
        at = posixpath.normpath(posixpath.join(here, path))
        to = OUTSIDE.get(at, at.removeprefix("docs/") if at.startswith("docs/") else "")
        if not to or files.get_file_from_path(to) is None:
            return text
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(place) or '.')}{hash_}{anchor})"

    return _LINK.sub(linked, markdown)
