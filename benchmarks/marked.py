"""Pages of docs/ of which a run writes the part between two marks."""

import re
from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Put a text between a page's marks `<!-- name -->` and `<!-- /name -->`."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    known = page.read_text()
    page.write_text(
        re.sub(pattern, lambda found: f"{found[1]}{text}\n{found[2]}", known, flags=re.S)
    )
