"""The files around the package agree with each other, and what is built of them is whole."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from expedite.recipes import COUNTED_WITH

ROOT = Path(__file__).parents[1]


# What a careless build would take along, beside the package.
SOURCES = ("expedite", "tests", "benchmarks", "examples", "docs")


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def requirements() -> list[Requirement]:
    extras = (lines for name, lines in project()["optional-dependencies"].items() if name != "all")
    return [Requirement(line) for lines in (project()["dependencies"], *extras) for line in lines]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = {name.lower().replace("_", "-"): version for name, version in constraints().items()}
    for requirement in requirements():
        assert Version(pins[requirement.name.lower()]) in requirement.specifier, requirement


def test_counts_of_recipes_are_of_the_libraries_of_the_constraints() -> None:
    """When these move, `expedite recipes --check` is due, and its new reasons if there are any."""
    assert {name: constraints()[name] for name in COUNTED_WITH} == COUNTED_WITH


def test_pre_commit_runs_the_ruff_of_the_constraints() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (hook,) = (repo for repo in config["repos"] if "ruff" in repo["repo"])
    assert hook["rev"] == f"v{constraints()['ruff']}"


def test_the_continuous_run_is_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_the_workflow_runs_what_make_test_runs_on_every_version_that_is_promised() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.findall(
        r"^\t\$\(BIN\)/(.*)", makefile.partition("\nlint:")[2].partition("\n\n")[0], re.M
    )
    tests = re.findall(r"^PYTEST := .*\$\(BIN\)/(.*)", makefile, re.M)
    text = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    run = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert len(lint) >= 5
    assert {*lint, *tests, f'{tests[0]} -m "not slow"'} <= run
    versions = [line.rpartition(" ")[2] for line in project()["classifiers"] if " 3." in line]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == versions


def test_the_map_of_rooms_is_what_imports_are_held_to() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [layer.split(" | ") for layer in tool["contracts"][0]["layers"]]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [
        one for one in layers if one[0] != "__main__"
    ]


def test_what_is_said_to_be_installed_exists() -> None:
    """Messages and documents name the distribution, which is not called as the package is."""
    files = [ROOT / "README.md", *(one for name in SOURCES for one in (ROOT / name).rglob("*.*"))]
    texts = (file.read_text(encoding="utf-8") for file in files if file.suffix in (".md", ".py"))
    found = [one for text in texts for one in re.findall(r"'(expedite[-\w]*)\[([\w,]+)\]'", text)]
    assert {name for name, _ in found} == {project()["name"]}
    extras = {extra for _, several in found for extra in several.split(",")}
    assert {"hf", "sam", "coco", "export"} <= extras <= {*project()["optional-dependencies"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist and of the wheel that is made of it, offline and from a copy.

    A build leaves folders beside its sources, from which the next one takes files long deleted.
    """
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy]
    done = subprocess.run([*map(str, build)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[ZipFile]:
    (path,) = built.glob("expedite_vit-*-py3-none-any.whl")
    with ZipFile(path) as found:
        yield found


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = (path for path in (ROOT / "expedite").rglob("*.*") if path.is_file())
    assert names == {path.relative_to(ROOT).as_posix() for path in package if path.suffix != ".pyc"}
    assert {"expedite/py.typed", "expedite/assets/report.html"} <= names
    assert {f"expedite/assets/demo-{one}/checkpoint.pth" for one in ("segmenter", "dpt")} <= names
    assert "expedite/operators/kernels/em.py" in names


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: ZipFile) -> None:
    texts = {
        Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if "-info" in name
    }
    metadata = message_from_string(texts["METADATA"])
    assert metadata["Name"] == "expedite-vit"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Provides-Extra") == [*project()["optional-dependencies"]]
    assert texts["LICENSE"] == (ROOT / "LICENSE").read_text(encoding="utf-8")
    scripts = ConfigParser()
    scripts.read_string(texts["entry_points.txt"])
    assert {**scripts["console_scripts"]} == {"expedite": "expedite.cli:main"}


@pytest.mark.slow
def test_the_source_holds_what_builds_the_wheel(built: Path) -> None:
    (path,) = built.glob("expedite_vit-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "expedite/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]


@pytest.mark.parametrize("name", ["fault", "figures", "family"])
def test_a_form_asks_for_what_a_report_needs(name: str) -> None:
    text = (ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8")
    form = yaml.safe_load(text)
    assert {*form} == {"name", "description", "labels", "body"}
    assert all({"type", "id", "attributes"} <= {*part} for part in form["body"])
    assert {part["type"] for part in form["body"]} <= {"input", "textarea"}
    asked = {
        part["id"]: part.get("validations", {}).get("required", False) for part in form["body"]
    }
    assert asked["environment"]
    assert name == "family" or asked["describe"]
    commands = {path.stem for path in (ROOT / "expedite/cli").glob("*.py")}
    assert {*re.findall(r"`expedite (\w+)", text)} <= commands


def test_a_citation_has_what_it_needs() -> None:
    """Of the schema of version 1.2.0 of the Citation File Format."""
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert found["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "references"} <= {*found}
    paper = found["references"][0]
    assert {"type", "title", "authors"} <= {*paper}
    assert {"type": "other", "value": "arXiv:2210.01035"} in paper["identifiers"]
