import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from expedite.errors import ExpediteError
from expedite.models.files import load_weights, read_state_dict


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('/tmp/owned', 'w')",)


def test_reads_plain_wrapped_and_safetensors(tmp_path: Path) -> None:
    state = {"weight": torch.randn(2, 3)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "safe.safetensors")
    for name in ("plain.pth", "wrapped.pth", "safe.safetensors"):
        assert torch.equal(read_state_dict(tmp_path / name, "model")["weight"], state["weight"])


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ExpediteError, match="more than tensors"):
        read_state_dict(path, "model")


def test_a_bare_pickle(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ExpediteError, match=r"was not loaded|not a whole checkpoint"):
        read_state_dict(path, "model")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file(tmp_path: Path, share: float, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    state = {f"layer{i}": torch.randn(64, 64) for i in range(4)}
    if suffix == "pth":
        torch.save({"model": state}, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ExpediteError, match=r"not a whole checkpoint|was not loaded"):
        read_state_dict(path, "model")


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "readme.pth"
    path.write_text("weights are elsewhere")
    with pytest.raises(ExpediteError, match=r"not a whole checkpoint|was not loaded"):
        read_state_dict(path, "model")


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"epoch": 3, "loss": 0.1}, path)
    with pytest.raises(ExpediteError, match="a dict with keys epoch, loss, not a state dict"):
        read_state_dict(path, "model")


def test_keys_that_do_not_fit_are_named() -> None:
    model = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(ExpediteError) as error:
        load_weights(model, state, Path("file.pth"))
    message = str(error.value)
    assert "1 missing (bias)" in message
    assert "1 unexpected (scale)" in message
    assert "weight (2, 4) for (2, 3)" in message
