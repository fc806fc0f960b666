"""Make README and pyproject.toml those of a package index, where links to files of the repository lead nowhere.

python scripts/package_page.py OWNER/NAME TAG

In place, in a checkout that is built and thrown away: links become those of the repository at that tag, pictures those
of its raw files, and pyproject.toml gets the project's addresses, which no fork's is built with by mistake.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOST = "https://github.com"
RAW = "https://raw.githubusercontent.com"

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Markdown whose links lead somewhere from anywhere."""

    def absolute(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        start = f"{RAW}/{repository}/{tag}" if picture else f"{HOST}/{repository}/blob/{tag}"
        return f"{picture}[{label}]({start}/{target})"

    return _LINK.sub(absolute, text)


def with_urls(pyproject: str, repository: str, tag: str) -> str:
    """pyproject.toml with the project's addresses."""
    at = f"{HOST}/{repository}"
    urls = {
        "Source": at,
        "Documentation": f"{at}/tree/{tag}/docs",
        "Changelog": f"{at}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{at}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return pyproject.replace("\n[project.scripts]\n", f"\n[project.urls]\n{lines}\n[project.scripts]\n", 1)


def main() -> None:
    repository, tag = sys.argv[1:]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or not re.fullmatch(r"[\w.-]+", tag):
        sys.exit("expected OWNER/NAME and a tag")
    for name, change in (("README.md", with_absolute_links), ("pyproject.toml", with_urls)):
        path = ROOT / name
        path.write_text(change(path.read_text("utf-8"), repository, tag), "utf-8")


if __name__ == "__main__":
    main()
