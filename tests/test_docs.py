"""What the documents show runs as it stands there."""

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from torch import nn

import expedite
from expedite import cli
from expedite.exporting import formats

ROOT = Path(__file__).parents[1]
PROSE = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md")),
    ROOT / "benchmarks/README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]


def test_a_host_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/hosts.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "torch.Size([1, 5, 32, 32])" in printed
    assert "blocks 3 to 6 run on 16×16 clusters, 256 of 1024 tokens (25.0%)" in printed
    model = names["model"]
    assert isinstance(model, nn.Module)
    with expedite.patched(model, alpha=3, clusters=8, log_mass=False):
        assert "8×8" in str(expedite.describe(model))
    assert "16×16" in str(expedite.describe(model))
    assert expedite.unpatch(model) is model
    with pytest.raises(expedite.ExpediteError, match="host= says where"):
        expedite.describe(model)


def test_a_picture_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reports.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "picture.png").stat().st_size > 100_000


@pytest.mark.slow
def test_an_export_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # Rewriting the graph takes three quarters of an export; tests/exporting runs rewritten ones.
    monkeypatch.setattr("torch.onnx.ONNXProgram.optimize", lambda program: None)
    exec(code, {})
    assert "('output',) batch 1: 1 of 1 images agree" in capsys.readouterr().out
    assert (tmp_path / "model.onnx").stat().st_size > 1_000_000


PAGES = sorted([*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/contributing/*.md")])
EXPORTING = {"deploying", "format"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in EXPORTING))
        for page in PAGES
    ],
)
def test_pages_print_what_they_show(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A page's blocks run in turn; those called text are what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "FORMATS", formats.FORMATS)  # a page adds one
    # Dataclasses look their module up.
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, str(page), "exec"), vars(module))
        else:
            assert capsys.readouterr().out == block
    assert capsys.readouterr().out == ""


def test_commands_of_pages_are_known() -> None:
    """Commands and options that stand in code are those of the program."""
    app: Any = typer.main.get_command(cli.app)
    found = 0
    for page in PROSE:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] != ["expedite"] or "..." in words:
                    continue
                command = app.commands[words[1]]
                known = {name for option in command.params for name in option.opts}
                assert {word for word in words if word.startswith("--")} <= known, line
                found += 1
    assert found > 5


def anchors(page: Path) -> set[str]:
    """What GitHub and the site call a page's headings; the same twice gets a number."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    titles = [
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", prose, re.M)
    ]
    seen = [titles[:place].count(title) for place, title in enumerate(titles)]
    return {f"{title}-{n}" if n else title for title, n in zip(titles, seen, strict=True)}


@pytest.mark.parametrize("page", PROSE, ids=[str(page.relative_to(ROOT)) for page in PROSE])
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", prose):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), f"{target}#{anchor}"
