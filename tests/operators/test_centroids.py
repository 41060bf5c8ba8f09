"""What stands for a cluster: against a slow loop, and where it must not matter."""

import math

import pytest
import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.operators.assignment import HardAssignment
from expedite.operators.centroids import lengthen, sharpen
from expedite.operators.choices import check_sharpness


def sharpened_loop(labels: Tensor, z: Tensor, centers: Tensor, sharpness: float) -> Tensor:
    """Centres (M, D) of one image, cluster by cluster."""
    found = []
    for place, center in enumerate(centers):
        own = z[labels == place].double()
        if not len(own):
            found.append(center.double())
            continue
        apart = (own - center).square().sum(-1)
        share = torch.exp(-sharpness * apart / apart.mean().clamp_min(1e-30))
        found.append((share[:, None] * own).sum(0) / share.sum())
    return torch.stack(found)


@pytest.mark.parametrize("sharpness", [0.5, 4.0, 20.0])
def test_far_tokens_count_less(sharpness: float) -> None:
    z = torch.randn(2, 40, 5)
    labels = torch.randint(0, 9, (2, 40)).clamp(max=7)  # the ninth has no token
    weight = torch.ones(2, 40, 1)
    before = HardAssignment.of(labels, weight, 9)
    centers = before.means(z, torch.randn(2, 9, 5))
    core, found = sharpen(before, z, centers, weight, sharpness)
    for image in range(2):
        expected = sharpened_loop(labels[image], z[image], centers[image], sharpness)
        torch.testing.assert_close(found[image].double(), expected, rtol=1e-4, atol=1e-4)
    assert core.labels is labels


def test_two_tokens_and_equal_ones_keep_their_mean() -> None:
    z = torch.tensor([[[1.0, 0], [3, 8], [5, 5], [5, 5], [5, 5], [7, 7]]])
    labels = torch.tensor([[0, 0, 1, 1, 1, 2]])
    weight = torch.ones(1, 6, 1)
    before = HardAssignment.of(labels, weight, 3)
    centers = before.means(z, z[:, :3])
    torch.testing.assert_close(sharpen(before, z, centers, weight, 4.0)[1], centers)


def test_tokens_that_count_more_count_more() -> None:
    z = torch.randn(1, 12, 3)
    labels = torch.randint(0, 2, (1, 12))
    weight = torch.ones(1, 12, 1)
    weight[:, 4] = 3
    twice = [torch.cat([x, x[:, 4:5], x[:, 4:5]], 1) for x in (z, labels, torch.ones(1, 12, 1))]
    centers = torch.randn(1, 2, 3)
    found = sharpen(HardAssignment.of(labels, weight, 2), z, centers, weight, 4.0)[1]
    repeated = HardAssignment.of(twice[1], twice[2], 2)
    expected = sharpen(repeated, twice[0], centers, twice[2], 4.0)[1]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_centroids_are_as_long_as_their_tokens_are(power: float) -> None:
    tokens = torch.randn(2, 80, 6) + 1
    labels = torch.arange(80).expand(2, -1) % 12
    assignment = HardAssignment.of(labels, torch.ones(2, 80, 1), 12)
    means = assignment.means(tokens, tokens[:, :12])
    found = lengthen(means, tokens, tokens[:, :12], assignment, power)
    for image in range(2):
        for place in range(12):
            own, mean = tokens[image, labels[image] == place], means[image, place]
            longer = min(float(own.norm(dim=-1).mean() / mean.norm()), 2.0)
            torch.testing.assert_close(found[image, place], mean * longer**power)


def test_tokens_that_point_everywhere_are_not_lengthened_without_bound() -> None:
    tokens = torch.tensor([[[1.0, 0.001], [-1, 0.001]]])
    assignment = HardAssignment.of(torch.tensor([[0, 0]]), torch.ones(1, 2, 1), 1)
    mean = assignment.means(tokens, tokens[:, :1])
    found = lengthen(mean, tokens, tokens[:, :1], assignment, 2.0)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.004]]]))
    nothing = torch.zeros(1, 2, 2)
    assert lengthen(nothing[:, :1], nothing, nothing[:, :1], assignment, 2.0).eq(0).all()


@pytest.mark.parametrize("value", [-1.0, 21, math.nan, "4", True])
def test_a_sharpness_is_a_number_from_0_to_20(value: float) -> None:
    with pytest.raises(ExpediteError, match="a number from 0 to 20 works"):
        check_sharpness(value, hard=True)


def test_sharpness_needs_clusters_of_their_own() -> None:
    check_sharpness(0.0, hard=False)
    with pytest.raises(ExpediteError, match="hard=True or sharpness=0 would work"):
        check_sharpness(4.0, hard=False)
