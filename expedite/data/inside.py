"""Names in files of a data set, which are to stay inside of its folder."""

import os
from collections.abc import Iterable
from pathlib import Path

from expedite.errors import ExpediteError


def refuse_outside(root: Path, paths: Iterable[Path], origin: Path) -> None:
    """Refuse paths that leave a folder by their names; links in it are its owner's own.

    Args:
        root: The folder.
        paths: Made of the names.
        origin: The file that has them.

    Raises:
        ExpediteError: One does.
    """
    whole = _plain(root)
    for path in paths:
        if not _plain(path).is_relative_to(whole):
            raise ExpediteError(
                f"{origin} names {path}, which lies outside of {root}; names of files inside of it "
                "are due"
            )


def missing_of(paths: Iterable[Path]) -> list[Path]:
    """Those that are no files; a name that no file can have is none."""
    return [path for path in paths if not _is_file(path)]


def _plain(path: Path) -> Path:
    """From the root on and without .., but with links as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with characters that no name has
        return False
