"""Calibrating in closed form: what regressions find, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

import expedite
from expedite.errors import ExpediteError
from expedite.evaluate.calibrating import calibrate
from expedite.operators.clustering import cluster
from expedite.operators.drift import spreads
from tests.patching.test_calibration import swin

ALPHA = 1


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return VisionTransformer(40, 4, embed_dim=16, depth=4, num_heads=2, num_classes=0).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    noise = torch.randn(6, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    return F.interpolate(noise, (40, 40), mode="bilinear")


def test_the_metric_is_that_of_ridge_regression(model: Any, images: torch.Tensor) -> None:
    """Of differences after the block on differences before it, by NumPy."""
    found = calibrate(model, images, alpha=ALPHA, directions=5).metric.double().numpy()
    tokens = model._pos_embed(model.patch_embed(images))
    before = model.blocks[0](tokens)
    after = model.blocks[1](before)

    def differences(states: torch.Tensor) -> Any:
        states = states[:, 1:].detach().double()
        normed = F.layer_norm(states, states.shape[-1:]).reshape(6, 10, 10, 16).numpy()
        pairs = [normed[:, :, d:] - normed[:, :, :-d] for d in (1, 2, 3)]
        pairs += [normed[:, d:] - normed[:, :-d] for d in (1, 2, 3)]
        return np.concatenate([pair.reshape(-1, 16) for pair in pairs])

    x, y = differences(before), differences(after)
    ridge = 0.01 * (x**2).sum() / 16
    predicted = x @ np.linalg.solve(x.T @ x + ridge * np.eye(16), x.T @ y)
    _, _, rows = np.linalg.svd(predicted, full_matrices=False)
    expected = predicted @ rows[:5].T
    expected /= (expected**2).sum() ** 0.5
    projected = x @ found
    projected /= (projected**2).sum() ** 0.5
    # Distances are equal: directions are so but for their signs.
    np.testing.assert_allclose(np.abs(projected), np.abs(expected), atol=2e-5)


@pytest.mark.usefixtures("no_gradients")
def test_drift_is_the_least_squares_of_what_clusters_miss(model: Any, images: torch.Tensor) -> None:
    """The first block's: with its drift taken off, what is missing is not spread's to say."""
    made = calibrate(model, images, alpha=ALPHA)
    before = model.blocks[0](model._pos_embed(model.patch_embed(images)))
    after = model.blocks[1](before)[:, 1:]
    tokens = before[:, 1:]
    features = F.layer_norm(tokens, tokens.shape[-1:]) @ made.metric
    settings: Any = {"hard": True, "relocated": 0.3, "sharpness": 2.0, "length": 2.0}
    centroids, record = cluster(tokens, (10, 10), (5, 5), features=features, **settings)
    mass = record.mass.flatten()[:, None]
    joined = torch.cat([before[:, :1], centroids], 1)
    bias = F.pad(record.mass.clamp_min(1e-30).log(), (1, 0))[:, None, None]
    block = model.blocks[1]
    queries, keys, values = (
        block.attn.qkv(block.norm1(joined)).view(6, 26, 3, 2, 8).permute(2, 0, 3, 1, 4)
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    joined = joined + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    joined = joined + block.mlp(block.norm2(joined))
    assert record.assignment is not None
    wanted = record.assignment.means(after - tokens, torch.zeros_like(centroids))
    missing = (wanted - (joined[:, 1:] - centroids)).flatten(0, 1)
    x = spreads(record).flatten(0, 1)
    x = x / (mass * x.square()).sum(0).sqrt()
    weighted = (mass.sqrt() * x).double().numpy(), (mass.sqrt() * missing).double().numpy()
    rows = np.sqrt(0.01) * np.eye(3)  # columns have unit length: so has the ridge's mean
    expected, *_ = np.linalg.lstsq(
        np.concatenate([weighted[0], rows]),
        np.concatenate([weighted[1], np.zeros((3, 16))]),
        rcond=None,
    )
    unit = (mass * spreads(record).flatten(0, 1).square()).sum(0).sqrt()
    found = made.drift[0] * unit[:, None]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("no_gradients")
def test_calibrated_plans_run_and_leave_the_model_alone(
    model: Any, images: torch.Tensor, tmp_path: Path
) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model(images)
    expedite.calibrate(model, list(images), alpha=ALPHA).save(tmp_path / "made.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(images), plain)
    name = str(tmp_path / "made.safetensors")
    with expedite.patched(model, alpha=ALPHA, keep=0.25, calibration=name):
        found = model(images)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, plain)


def test_a_model_that_was_left_training_is_calibrated_as_it_is_used(images: torch.Tensor) -> None:
    sizes: Any = {"embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 0}
    model = VisionTransformer(40, 4, proj_drop_rate=0.5, **sizes)
    found = calibrate(model.train(), images, alpha=ALPHA)
    assert model.training
    assert torch.equal(found.metric, calibrate(model.eval(), images, alpha=ALPHA).metric)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(0, 3, 40, 40), "0 images"),
        (torch.randn(3, 3, 40, 40), "at least 4"),
        ([torch.randn(3, 40, 40)] * 3 + [torch.randn(3, 44, 40)], "one size"),
        (torch.full((4, 3, 40, 40), torch.nan), "no numbers"),
        (torch.randn(4, 3, 1, 1).expand(4, 3, 40, 40), "one colour"),
    ],
)
def test_images_that_say_nothing_are_refused(model: Any, given: Any, words: str) -> None:
    with pytest.raises(ExpediteError, match=words):
        calibrate(model, given, alpha=ALPHA)


def test_models_it_is_not_for_are_refused(model: Any, images: torch.Tensor) -> None:
    with pytest.raises(ExpediteError, match="within windows"):
        calibrate(swin(), images, alpha=1)
    with pytest.raises(ExpediteError, match="alpha=4"):
        calibrate(model, images, alpha=4)
    with pytest.raises(ExpediteError, match="directions=0"):
        calibrate(model, images, alpha=ALPHA, directions=0)
