"""What a report of a fault says of the machine."""

import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from expedite.cli import main
from expedite.measure.environment import machine, other_versions


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "transformers":
            raise PackageNotFoundError
        return f"{name} 1"

    monkeypatch.setattr("expedite.measure.environment.version", version)
    found = machine()
    assert "transformers" not in found
    assert (found["timm"], found["onnx"]) == ("timm 1", "onnx 1")
    assert found["torch"] == torch.__version__


def test_an_accelerator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"none": None, "mps": torch.device("mps"), "an H200": torch.device("cuda")}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an H200")
    for name, device in devices.items():
        monkeypatch.setattr(
            torch.accelerator,
            "current_accelerator",
            lambda check_available, device=device: device,
        )
        assert machine()["accelerator"] == name


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_prints_it(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["expedite", "environment", *options])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    text = capsys.readouterr().out
    found = json.loads(text) if options else dict(line.split(": ", 1) for line in text.splitlines())
    assert found == machine()


def test_libraries_that_are_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"torch": "2.15.0+cpu", "timm": "1.0.31"}

    def version(name: str) -> str:
        if name not in here:
            raise PackageNotFoundError
        return here[name]

    monkeypatch.setattr("expedite.measure.environment.version", version)
    assert other_versions({"torch": "2.15.0", "timm": "1.0.31", "numpy": "1"}) == []
    assert other_versions({"torch": "2.15.0+cu130"}) == []  # the same, built otherwise
    before = {"torch": "2.14.0; then 2.15.0", "timm": "1.0.31", "transformers": "5.23.0"}
    assert other_versions(before) == [
        "Made with torch 2.14.0; then 2.15.0 (2.15.0+cpu here), transformers 5.23.0 (none here): "
        "figures can differ."
    ]
