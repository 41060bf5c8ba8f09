import sys
from pathlib import Path

# Scripts import each other by their bare names, as they do when they are run.
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
