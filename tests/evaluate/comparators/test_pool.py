import pytest
import torch
import torch.nn.functional as F

import expedite
from expedite import Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.comparators.base import Measured
from expedite.evaluate.comparators.pool import TokenPooling
from expedite.evaluate.comparators.records import Upsampled
from expedite.evaluate.comparators.rival import Rival
from expedite.patching.families import find_hosts
from tests.hosts import images, segmenter

pytestmark = pytest.mark.usefixtures("no_gradients")
GRID, CLUSTERS = (7, 10), (3, 4)  # neither side divides


def test_pooling_is_pytorchs() -> None:
    tokens = torch.randn(2, 70, 6)
    pooled, record = TokenPooling(Span(0, CLUSTERS))(tokens, GRID, Measured())
    expected = F.adaptive_avg_pool2d(tokens.mT.reshape(2, 6, *GRID), CLUSTERS)
    torch.testing.assert_close(pooled, expected.flatten(2).mT)
    torch.testing.assert_close(record.mass.sum(1), torch.full((2,), 70.0))


def test_upsampling_is_a_slow_loops() -> None:
    values = torch.randn(1, 12, 2)
    spread = Upsampled(GRID, CLUSTERS).apply(values)[0]
    cells = values[0].reshape(*CLUSTERS, 2).double()
    for place in range(GRID[0] * GRID[1]):
        weights = []
        for index, size, count in zip(divmod(place, GRID[1]), GRID, CLUSTERS, strict=True):
            at = min(max((index + 0.5) * count / size - 0.5, 0), count - 1)
            weights.append([max(0.0, 1 - abs(at - cell)) for cell in range(count)])
        rows, columns = (torch.tensor(weight, dtype=torch.float64) for weight in weights)
        expected = torch.einsum("h,w,hwc->c", rows, columns, cells)
        torch.testing.assert_close(spread[place].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_constant_map_comes_back_as_it_was() -> None:
    tokens = torch.randn(1, 1, 6).expand(2, 70, 6)
    pooled, _ = TokenPooling(Span(0, CLUSTERS))(tokens, GRID, Measured())
    torch.testing.assert_close(Upsampled(GRID, CLUSTERS).apply(pooled), tokens)


def test_the_mixed_rows_share_one_half_each() -> None:
    """Pooling with our weights clusters as pooling does, clusters with bilinear as we do."""
    outputs = {
        name: expedite.patch(segmenter(), plan_of(name, 1, 4))(images())
        for name in ("expedite", "pool", "pool+weights", "clusters+bilinear")
    }
    names = list(outputs)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert not torch.allclose(outputs[first], outputs[second])


def test_weights_after_pooling_rebuild_what_pooling_keeps() -> None:
    """Tokens constant over 2×2 bins are the bins themselves: linear weights give them back."""
    cells = torch.randn(1, 4, 4, 5)
    tokens = cells.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    plan = plan_of("pool+weights", 1, 4, delta=False)
    assert isinstance(plan, Rival)
    model = segmenter()
    session = plan.session(next(find_hosts(model))[1])
    layer, reconstruct = session.clusterings[1], session.reconstruction
    pooled, record = layer(tokens, (8, 8), Measured())
    torch.testing.assert_close(reconstruct(pooled, record), tokens, atol=0.05, rtol=0.05)
