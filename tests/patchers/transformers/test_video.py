"""Video models of transformers: clusters of each frame, attention among those of all frames."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from tests.hosts import open_frames, randomized
from tests.patchers.transformers.test_towers import VIT
from tests.patching.test_oracles import HARD, blocky

hf: Any = transformers  # its configs take what their annotations do not show
TUBELETS: dict[str, Any] = {"VideoMAE": 2, "Vivit": [2, 4, 4]}
names = pytest.mark.parametrize("name", list(TUBELETS))

pytestmark = pytest.mark.usefixtures("no_gradients")


def made(name: str) -> Any:
    """On 3 times 8×8 tokens, each of two frames."""
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")
    sizes = {"num_frames": 6, "tubelet_size": TUBELETS[name]}
    return randomized(getattr(hf, f"{name}Model")(config(**VIT, **sizes)))


def videos() -> Tensor:
    return torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def read(model: Any, x: Tensor) -> list[Tensor]:
    output = model(x, output_hidden_states=True)
    return [output.last_hidden_state, *output.hidden_states]


@names
def test_patches_and_returns_to_what_it_was(name: str) -> None:
    model = made(name)
    plain = read(model, videos())
    expedite.patch(model, alpha=1, clusters=4)
    found = read(model, videos())
    assert [state.shape for state in found] == [state.shape for state in plain]
    assert torch.equal(found[2], plain[2])
    assert not torch.allclose(found[3], plain[3], rtol=1e-3, atol=1e-3)
    assert all(map(torch.equal, read(expedite.unpatch(model), videos()), plain))


@names
@pytest.mark.parametrize("log_mass", [True, False])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, log_mass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(name)
    plain = read(model, videos())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, beta=2, clusters=8, log_mass=log_mass, **HARD)
    for found, expected in zip(read(model, videos()), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@names
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    model = made(name)
    model.embeddings.position_embeddings.zero_()
    x = blocky(videos().flatten(0, 1), 4).unflatten(0, (2, 6))  # type: ignore[no-untyped-call]
    plain = model(x).last_hidden_state
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    torch.testing.assert_close(model(x).last_hidden_state, plain, rtol=2e-3, atol=2e-3)


def test_tokens_left_out_are_refused() -> None:
    model = expedite.patch(made("VideoMAE"), alpha=1, clusters=4)
    masked = torch.arange(3 * 64).expand(2, -1) < 2 * 64
    with pytest.raises(ExpediteError, match="called with bool_masked_pos, which leaves tokens out"):
        model(videos(), bool_masked_pos=masked)
    assert open_frames(model) == 0
