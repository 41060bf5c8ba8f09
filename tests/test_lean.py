"""Help, refusals and `import expedite` load no library that models need."""

import json
import subprocess
import sys

import expedite
from expedite.cli import app

HEAVY = ["torch", "torchvision", "timm", "transformers", "numpy", "cv2", "PIL", "matplotlib"]
PLAN = ["--alpha", "1", "--clusters", "4"]
REFUSED = [
    ["no-such-command"],
    ["bench"],
    ["bench", "demo:segmenter"],
    ["bench", "demo:segmenter", "--no-such-option"],
    ["bench", "demo:segmenter", "--alpha", "one"],
    ["bench", "demo:segmenter", *PLAN, "--compile", "fast"],
    ["flops", "demo:segmenter", "--alpha", "1", "--clusters", "0"],
    ["flops", "demo:segmenter", *PLAN, "--set", "colour=red"],
    ["flops", "demo:segmenter", *PLAN, "--method", "magic"],
    ["export", "demo:segmenter", "--out", "x", "--format", "tensorrt"],
    ["sweep", "demo:segmenter", "--data", ".", "--out", "x"],
    ["tune", "demo:segmenter", "--images", "."],
    ["visualize", "demo:segmenter", "--alpha", "1,2", "--clusters", "4"],
    ["recipes", "no-such-recipe"],
    ["report", ".", "--format", "pdf"],
]

# One command after the other in one process, which is to stay without those libraries.
RUN = """
import json, sys
from expedite.cli import main
heavy, commands, code = json.loads(sys.argv[1])
for words in commands:
    sys.argv = ["expedite", *words]
    try:
        main()
    except SystemExit as end:
        assert end.code == code, (words, end.code)
    assert not (found := [name for name in heavy if name in sys.modules]), (words, found)
"""
IMPORT = """
import json, sys
import expedite
heavy, names = json.loads(sys.argv[1])
assert not (found := [name for name in heavy if name in sys.modules]), found
for name in names:
    assert getattr(expedite, name).__module__.startswith("expedite"), name
"""
PATCHING = """
import timm
from expedite.patching import describe, patch
model = timm.create_model("vit_tiny_patch16_224", depth=2)
print(describe(patch(model, alpha=1, clusters=7)).family)
"""


def python(program: str, *content: object) -> str:
    """What a program prints in an interpreter of its own."""
    words = [sys.executable, "-c", program, json.dumps(content)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_is_there_at_once() -> None:
    names = [command.name for command in app.registered_commands]
    words = [["--help"], ["--version"], *([name, "--help"] for name in names)]
    python(RUN, HEAVY, [*words, ["recipes"]], 0)


def test_refusals_are_there_at_once() -> None:
    python(RUN, HEAVY, REFUSED, 2)


def test_names_of_the_package_come_when_they_are_asked_for() -> None:
    names = [name for name in expedite.__all__ if name != "__version__"]
    python(IMPORT, HEAVY, names)
    assert set(expedite.__all__) <= set(dir(expedite))
    assert not hasattr(expedite, "no_such_name")


def test_families_are_known_however_one_comes_in() -> None:
    assert python(PATCHING) == "timm VisionTransformer\n"
