"""The few numbers in which tokens are compared, against eigenvectors and the hash itself."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expedite.operators import inverse
from expedite.operators.metric import principal, project, standardize


def smooth(images: int, tokens: int, depth: int) -> Tensor:
    """Tokens (B, N, D) a few directions of which carry most, as in real features."""
    scale = 1 / (1 + torch.arange(depth)[torch.randperm(depth)])
    return torch.randn(images, tokens, depth) * scale


def distances(x: Tensor) -> Tensor:
    """Between all tokens (B, N, N), without the rounding of products."""
    return torch.cdist(x.double(), x.double())


@pytest.mark.parametrize("directions", [1, 8, 32])
def test_principal_directions_keep_what_eigenvectors_keep(directions: int) -> None:
    x = smooth(3, 400, 192) + 5
    found, _ = standardize(x, directions, "principal")
    body = (x / x.abs().amax((1, 2), keepdim=True)).double()
    body = body - body.mean(1, keepdim=True)
    most = torch.linalg.eigvalsh(body.mT @ body)[:, -directions:].sum(-1)
    kept = found.double().square().sum((1, 2))
    assert (kept <= most * (1 + 1e-5)).all()
    assert (kept >= 0.95 * most).all()


def test_principal_directions_never_lengthen_a_difference() -> None:
    x = smooth(2, 60, 100)
    found, unit = standardize(x, 16, "principal")
    assert (distances(found) <= distances(x) / unit * (1 + 1e-4) + 1e-6).all()


@pytest.mark.parametrize("eliminated", [True, False])
def test_an_image_of_few_directions_is_kept_whole(
    eliminated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if eliminated:  # as graphs are exported
        monkeypatch.setattr(inverse, "_decomposes", lambda matrix: False)
    x = torch.randn(2, 90, 3) @ torch.randn(3, 128)
    found, unit = standardize(x, 32, "principal")
    torch.testing.assert_close(distances(found), distances(x) / unit, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 30, 100),
        torch.full((2, 30, 100), 7.0),
        torch.full((1, 30, 100), 3e38),
        1e-30 * torch.randn(1, 30, 100),
        torch.zeros(0, 30, 100),
        torch.randn(1, 2, 100),
    ],
    ids=["nothing", "even", "huge", "tiny", "no image", "two tokens"],
)
def test_finite_whatever_the_image(x: Tensor) -> None:
    found, _ = standardize(x, 32, "principal")
    assert found.shape == (*x.shape[:2], 32)
    assert found.isfinite().all()


@pytest.mark.parametrize("basis", ["principal", "hashed"])
def test_each_image_has_a_basis_of_its_own(basis: Any) -> None:
    x = smooth(3, 50, 96)
    together, _ = standardize(x, 16, basis)
    alone = torch.cat([standardize(image[None], 16, basis)[0] for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradients_flow_to_tokens_and_not_through_the_basis() -> None:
    x = smooth(1, 50, 64).requires_grad_()
    found, unit = standardize(x, 8, "principal")
    directions = torch.linalg.lstsq((x - x.mean(1, keepdim=True)) / unit, found).solution.detach()
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert gradient.isfinite().all()
    again = (x - x.mean(1, keepdim=True)) / unit.detach()
    (expected,) = torch.autograd.grad((again @ directions).square().sum(), x)
    # What is left is how the unit, the largest of all values, follows one token.
    close = torch.isclose(gradient, expected, rtol=1e-2, atol=1e-3 * float(gradient.abs().max()))
    assert close.float().mean() > 0.99


def test_a_start_of_nothing_gives_nothing() -> None:
    assert principal(torch.zeros(1, 5, 40), torch.zeros(1, 5, 8), torch.ones(1, 1, 1)).eq(0).all()


@given(depth=st.integers(40, 300), channels=st.sampled_from([16, 32, 64]), seed=st.integers(0, 9))
def test_projections_keep_distances(depth: int, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few directions carry most of the distance, as in real features: the hard case.
    scale = 1 / (1 + torch.arange(depth)[torch.randperm(depth, generator=generator)])
    x = torch.randn(1, 60, depth, generator=generator) * scale
    short = project(x, channels)
    ratio = (torch.cdist(short, short)[0] / torch.cdist(x, x)[0])[*torch.triu_indices(60, 60, 1)]
    assert abs(float(ratio.square().mean()) - 1) < 4 / channels**0.5
    assert float(ratio.square().std()) < 3 / channels**0.5  # √(2/channels) on average


@pytest.mark.parametrize(("depth", "channels"), [(300, 64), (128, 64), (65, 64)])
def test_projections_follow_the_hash(depth: int, channels: int) -> None:
    prime = 2**31 - 1
    expected = torch.zeros(depth, channels)
    for channel in range(depth):
        mixed = pow(channel * 48271 + 117892, 2, prime)
        odd = pow(mixed * 16807 + channel, 2, prime) % 2
        expected[channel, channel % channels] = 2 * odd - 1
    assert torch.equal(project(torch.eye(depth)[None], channels)[0], expected)
    assert 0.4 < (expected.sum(1) > 0).float().mean() < 0.6


def test_projections_of_no_image() -> None:
    assert project(torch.zeros(0, 7, 130), 64).shape == (0, 7, 64)


def test_no_more_projections_than_channels() -> None:
    x = torch.randn(1, 5, 8)
    assert project(x, 8) is project(x, 9) is project(x, None) is x
