"""`expedite.load(spec, checkpoint)`: every kind of file, good and bad."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import expedite
from expedite import ExpediteError

SPEC = "timm:vit_tiny_patch16_224"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return expedite.load(SPEC).state_dict()


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "DataParallel": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
    "Lightning": lambda state: {"state_dict": {f"model.module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_however_training_code_wraps_it(wrapping: str, state: State, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "weights.pth")
    loaded = expedite.load(SPEC, tmp_path / "weights.pth").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_safetensors_and_paths_as_text(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    loaded = expedite.load(SPEC, str(tmp_path / "weights.safetensors")).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_runs_code_is_not_run(write: Any, tmp_path: Path) -> None:
    path, owned = tmp_path / "evil.pth", tmp_path / "owned"
    write({"model": Evil(owned)}, path)
    with pytest.raises(ExpediteError, match=r"was not loaded: it is a pickle of more than tensors"):
        expedite.load(SPEC, path)
    assert not owned.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_file(name: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ExpediteError, match=r"not a whole checkpoint"):
        expedite.load(SPEC, path)


def test_wrong_keys(state: State, tmp_path: Path) -> None:
    renamed = {name.replace("blocks.", "layers."): state[name] for name in state}
    torch.save(renamed, tmp_path / "weights.pth")
    with pytest.raises(ExpediteError, match=r"144 missing \(blocks.*144 unexpected \(layers"):
        expedite.load(SPEC, tmp_path / "weights.pth")


def test_wrong_shapes(state: State, tmp_path: Path) -> None:
    torch.save({**state, "head.weight": torch.zeros(10, 192)}, tmp_path / "weights.pth")
    with pytest.raises(ExpediteError, match=r"head\.weight \(10, 192\) for \(1000, 192\)"):
        expedite.load(SPEC, tmp_path / "weights.pth")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ExpediteError, match="which is not a file"):
        expedite.load(SPEC, "/nowhere/weights.pth")
