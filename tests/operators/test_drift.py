"""Spreads of clusters, by a slow loop and where there are none."""

import pytest
import torch

from expedite.errors import ExpediteError
from expedite.operators.clustering import cluster, labels, unmerged
from expedite.operators.drift import spreads


def test_spreads_are_mean_distances_over_the_mean_square() -> None:
    _, record = cluster(torch.randn(2, 48, 5), (6, 8), (3, 4), hard=True, relocated=0.3)
    own, found = labels(record), spreads(record)
    for image in range(2):
        z, unit = record.features[image], record.features[image].square().sum(-1).mean()
        expected = []
        for index in range(12):
            members = z[own[image] == index]
            apart = (members - record.centers[image, index]).square().sum(-1)
            expected.append(apart.sum() / max(len(members), 1) / unit)
        spread = torch.stack(expected)
        torch.testing.assert_close(found[image, :, 1], spread)
        torch.testing.assert_close(found[image, :, 2], spread.sqrt())
        torch.testing.assert_close(found[image, :, 0], spread.mean().expand(12))


def test_single_tokens_have_none() -> None:
    tokens = torch.randn(1, 16, 4)
    tokens[0, 5] = 40
    _, record = cluster(tokens, (4, 4), (3, 3), hard=True, relocated=0.4)
    alone = record.mass[0] == 1
    assert alone.any()
    assert spreads(record)[0, alone, 1].abs().max() < 1e-9


def test_nothing_merged_is_refused() -> None:
    with pytest.raises(ExpediteError, match="no tokens were merged"):
        spreads(unmerged(torch.randn(1, 16, 4), (4, 4)))
