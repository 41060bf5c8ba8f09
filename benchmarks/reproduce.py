"""Write the published figures and the commands that repeat them into docs/reproduce.md.

    python -m benchmarks.reproduce

From the repository's root, whenever a recipe changes; nothing is measured.
"""

from tests.reproduce_tables import DOCS, document


def main() -> None:
    """Write the tables anew."""
    DOCS.write_text(document(DOCS.read_text()))


if __name__ == "__main__":
    main()
