"""Pages of the site that lie outside of docs/, where GitHub shows them too: a hook of MkDocs."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# From the repository's root to the site's.
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add them to the site."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **others: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    uri = page.file.src_uri
    source = next((file for file, name in PAGES.items() if name == uri), f"docs/{uri}")

    def moved(link: re.Match[str]) -> str:
        target, anchor = link.groups()
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = PAGES.get(file, file.removeprefix("docs/"))
        return f"]({posixpath.relpath(there, posixpath.dirname(uri) or '.')}{anchor or ''})"

    return re.sub(r"\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)
