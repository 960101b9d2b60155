"""What mkdocs is told while it builds the site: the README is its first page, and what lies outside
docs/ is named there instead of linked."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
README = "README.md"


def on_files(files: Any, config: Any) -> Any:
    """Make the first page."""
    text = (ROOT / README).read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=_moved(text, PurePosixPath("."))))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Mend the links of a page."""
    if page.file.src_uri == "index.md":
        return markdown
    return _moved(markdown, PurePosixPath("docs", page.file.src_uri).parent)


def _moved(text: str, folder: PurePosixPath) -> str:
    """The page of a folder of this repository with links as they are on the site."""

    def link(found: re.Match[str]) -> str:
        image, words, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        file, _, anchor = target.partition("#")
        place = PurePosixPath(normpath(folder / file))
        end = f"#{anchor}" if anchor else ""
        if str(place) == README:
            place = PurePosixPath("docs/index.md")
        if place.parts[0] != "docs":
            return f"{words} (`{place}`)"
        if place.suffix in (".json", ".jsonl", ".yaml", ".py") or (ROOT / place).is_dir():
            return f"{words} (`{place}`)"
        above = [".."] * (len(folder.parts) - 1 if folder.parts[:1] == ("docs",) else 0)
        return f"{image}[{words}]({'/'.join([*above, *place.parts[1:]])}{end})"

    return _LINK.sub(link, text)
