"""The files around the package agree with each other."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (lines for name, lines in project["optional-dependencies"].items() if name != "all")
    return [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = {name.lower().replace("_", "-"): version for name, version in constraints().items()}
    for requirement in requirements():
        assert Version(pins[requirement.name.lower()]) in requirement.specifier, requirement


def test_pre_commit_runs_the_ruff_of_the_constraints() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (hook,) = (repo for repo in config["repos"] if "ruff" in repo["repo"])
    assert hook["rev"] == f"v{constraints()['ruff']}"


def test_the_continuous_run_is_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
