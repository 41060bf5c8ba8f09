import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from expedite.errors import ExpediteError, MisfitError
from expedite.models.files import (
    filled,
    load_weights,
    read_state_dict,
    write_checkpoint,
)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('/tmp/owned', 'w')",)


def test_reads_plain_wrapped_and_safetensors(tmp_path: Path) -> None:
    state = {"weight": torch.randn(2, 3)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "safe.safetensors")
    for name in ("plain.pth", "wrapped.pth", "safe.safetensors"):
        assert torch.equal(read_state_dict(tmp_path / name)["weight"], state["weight"])


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ExpediteError, match="more than tensors"):
        read_state_dict(path)


def test_a_bare_pickle(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ExpediteError, match=r"was not loaded|not a whole checkpoint"):
        read_state_dict(path)


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
        read_state_dict(path)


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "readme.pth"
    path.write_text("weights are elsewhere")
    with pytest.raises(ExpediteError, match=r"not a whole checkpoint|was not loaded"):
        read_state_dict(path)


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"epoch": 3, "loss": 0.1}, path)
    with pytest.raises(ExpediteError, match="a dict with keys epoch, loss, not a state dict"):
        read_state_dict(path)


def test_a_dict_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "loop.pth")
    with pytest.raises(ExpediteError, match="a dict with keys model, not a state dict"):
        read_state_dict(tmp_path / "loop.pth")


@pytest.mark.parametrize(
    "weight",
    [
        torch.eye(2, 3).to_sparse(),
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.empty(2, 3).to("meta"),
    ],
    ids=["sparse", "complex", "meta"],
)
def test_tensors_that_are_no_weights(tmp_path: Path, weight: torch.Tensor) -> None:
    torch.save({"weight": weight, "bias": torch.zeros(2)}, tmp_path / "odd.pth")
    state = read_state_dict(tmp_path / "odd.pth")
    with pytest.raises(ExpediteError, match=r"1 not of dense real numbers \(weight\)"):
        load_weights(nn.Linear(3, 2), state, Path("odd.pth"))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_integers_are_no_weights(dtype: torch.dtype) -> None:
    state = {"weight": torch.ones(2, 3, dtype=dtype), "bias": torch.zeros(2)}
    with pytest.raises(ExpediteError, match=rf"1 not of floating point \(weight {dtype}\)"):
        load_weights(nn.Linear(3, 2), state, Path("odd.pth"))
    norm = nn.BatchNorm1d(2)  # counts batches in an integer
    load_weights(
        norm, {n: t.double() if t.dim() else t for n, t in norm.state_dict().items()}, Path()
    )


def test_the_dict_among_the_keys_is_taken(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({"model": "vit_b", "module": state}, tmp_path / "named.pth")
    assert torch.equal(read_state_dict(tmp_path / "named.pth")["weight"], state["weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_end_in_one_sentence(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    state = {f"layer{i}": torch.randn(2, 2) for i in range(3)}
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(min(len(content), 900))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_state_dict(path)
        except ExpediteError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert refused > 50  # what is not refused was read: padding, or a tensor's own bytes


def test_a_prefix_of_the_model_itself_stays() -> None:
    model = nn.Sequential()
    model.add_module("module", nn.Linear(3, 2))
    load_weights(model, nn.Sequential.state_dict(model), Path("file.pth"))
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    load_weights(model, state, Path("file.pth"))


def test_keys_that_do_not_fit_are_named() -> None:
    model = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(ExpediteError) as error:
        load_weights(model, state, Path("file.pth"))
    message = str(error.value)
    assert "1 missing (bias)" in message
    assert "1 unexpected (scale)" in message
    assert "weight (2, 4) for (2, 3)" in message


class Indexed(nn.Linear):
    """With a buffer that it computes, as Swins and BEiTs have them."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("relative_position_index", torch.tensor([[1, 0]]))


@pytest.mark.parametrize("given", [{}, {"relative_position_index": torch.tensor([[1, 0]])}])
def test_what_a_model_computes_may_be_missing_or_too_much(given: dict[str, torch.Tensor]) -> None:
    weights = {"weight": torch.randn(2, 3), "bias": torch.zeros(2), **given}
    model = Indexed()
    load_weights(model, weights, Path("file.pth"))
    assert model.state_dict()["relative_position_index"].tolist() == [[1, 0]]
    assert torch.equal(model.weight, weights["weight"])
    load_weights(nn.Linear(3, 2), weights, Path("file.pth"))


def test_a_model_that_does_not_fit_takes_no_memory() -> None:
    """Weights of a table of 4 TB: the sizes of a damaged file can be any."""
    with pytest.raises(MisfitError, match=r"weight \(2, 3\) for \(1000000, 1000000\)"):
        filled(
            lambda: nn.Linear(1000000, 1000000, bias=False),
            {"weight": torch.zeros(2, 3)},
            Path("file.pth"),
        )


def test_a_checkpoint_is_written_whole_or_in_one_error(tmp_path: Path) -> None:
    write_checkpoint({"a": torch.ones(2)}, tmp_path / "a.pth")
    assert torch.equal(read_state_dict(tmp_path / "a.pth")["a"], torch.ones(2))
    if Path("/dev/full").exists():
        (tmp_path / ".b.pth.partial").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):  # PyTorch's own writer aborts here
            write_checkpoint({"a": torch.ones(2)}, tmp_path / "b.pth")
