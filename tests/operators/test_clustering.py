"""Every promise of the clustering operator, one test each."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.operators.assignment import SoftAssignment
from expedite.operators.choices import Basis
from expedite.operators.clustering import (
    AUTO_TEMPERATURE,
    TokenClustering,
    cluster,
    labels,
    pool,
)
from expedite.operators.reconstruction import reconstruct
from tests.oracles import cluster_loop, first_cells, near

CASES = [
    ((7, 13), (3, 5)),
    ((12, 16), (5, 6)),
    ((9, 4), (9, 2)),
    ((5, 6), (1, 1)),
    ((8, 8), (4, 4)),
]


@pytest.mark.parametrize(("grid", "clusters"), CASES)
@pytest.mark.parametrize("neighborhood", [1, 3, 5])
def test_equals_the_equations_in_a_slow_loop(
    grid: tuple[int, int], clusters: tuple[int, int], neighborhood: int
) -> None:
    tokens = 2 * torch.randn(2, grid[0] * grid[1], 6) + 3 * torch.arange(6)
    centroids, record = cluster(
        tokens, grid, clusters, iterations=3, neighborhood=neighborhood, temperature=4.0
    )
    for image in range(2):
        expected, mass, _ = cluster_loop(tokens[image], grid, clusters, 3, neighborhood, 4.0)
        torch.testing.assert_close(centroids[image].double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(record.mass[image].double(), mass, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 0.15])
def test_soft_clusters_of_hardly_any_mass_move_as_published(temperature: float) -> None:
    """Between two even cells, one half like either; the published code divides from 1e-16 on."""
    tokens = torch.tensor([1.0, 1, 1, -1, -1, -1])[None, :, None] + 0.1 * torch.randn(1, 6, 3)
    settings: Any = {"iterations": 1, "neighborhood": 3, "temperature": temperature}
    centroids, record = cluster(tokens, (1, 6), (1, 3), **settings)
    expected, mass, _ = cluster_loop(tokens[0], (1, 6), (1, 3), 1, 3, temperature)
    assert 1e-16 < mass[1] < 1e-6
    torch.testing.assert_close(centroids[0].double(), expected, atol=1e-3, rtol=1e-3)
    assert record.there.all()


def test_centres_begin_as_adaptive_averages() -> None:
    tokens = torch.randn(2, 11 * 17, 4)
    expected = F.adaptive_avg_pool2d(tokens.transpose(1, 2).reshape(2, 4, 11, 17), (4, 7))
    found = clustering.average_pool(tokens, (11, 17), (4, 7))
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2))


def test_auto_temperature_follows_each_images_own_spread() -> None:
    grid, clusters = (8, 10), (4, 5)
    tokens = torch.randn(2, 80, 6) * torch.tensor([1.0, 30.0])[:, None, None]
    _, record = cluster(tokens, grid, clusters, iterations=1)
    for image in range(2):
        s, _, _ = cluster_loop(tokens[image], grid, clusters, 0, 5, 1.0)
        own = [i * 5 + j for i, j in first_cells(grid, clusters)]
        spread = ((tokens[image].double() - s[own]) ** 2).sum(1).mean()
        unit = tokens[image].abs().max()
        found = record.temperature[image].item() * unit**2
        assert found == pytest.approx(AUTO_TEMPERATURE * spread.item(), rel=1e-4)


grids = st.tuples(st.integers(1, 14), st.integers(1, 14))


@given(grid=grids, data=st.data(), batch=st.sampled_from([0, 1, 3]))
def test_any_grid_any_clusters_any_batch(
    grid: tuple[int, int], data: st.DataObject, batch: int
) -> None:
    clusters = data.draw(st.tuples(st.integers(1, grid[0]), st.integers(1, grid[1])))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    tokens = torch.randn(batch, grid[0] * grid[1], 8).to(dtype)
    centroids, record = cluster(tokens, grid, clusters)
    assert centroids.shape == (batch, clusters[0] * clusters[1], 8)
    assert centroids.dtype == dtype
    assert centroids.isfinite().all()
    expected = torch.full((batch,), float(grid[0] * grid[1]))
    torch.testing.assert_close(record.mass.sum(1), expected, rtol=1e-4, atol=1e-3)
    assert labels(record).dtype == torch.int64
    assert labels(record).shape == (batch, grid[0] * grid[1])


def test_as_many_clusters_as_tokens_return_the_tokens_themselves() -> None:
    tokens = torch.randn(2, 12, 4)
    centroids, record = cluster(tokens, (3, 4), (3, 4))
    assert centroids is tokens
    assert record.is_identity
    assert torch.equal(labels(record), torch.arange(12).expand(2, 12))
    assert torch.equal(pool(tokens, record), tokens)


def test_the_shortcut_agrees_with_hard_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    tokens = torch.randn(2, 12, 4)
    centroids, record = cluster(tokens, (3, 4), (3, 4), iterations=1, temperature=1e-12)
    torch.testing.assert_close(centroids, tokens)
    torch.testing.assert_close(record.mass, torch.ones(2, 12))


def test_a_neighborhood_wider_than_the_grid_is_the_grid() -> None:
    tokens = torch.randn(1, 28 * 28, 8)
    wide, whole = (cluster(tokens, (28, 28), (14, 14), neighborhood=side)[0] for side in (999, 27))
    assert torch.equal(wide, whole)


def test_each_image_is_independent() -> None:
    tokens = torch.randn(3, 80, 6) * torch.tensor([1.0, 10.0, 0.1])[:, None, None]
    together, _ = cluster(tokens, (8, 10), (3, 4))
    for image in range(3):
        alone, _ = cluster(tokens[image : image + 1], (8, 10), (3, 4))
        torch.testing.assert_close(together[image], alone[0])


@pytest.mark.parametrize("hard", [True, False])
def test_nan_in_one_image_does_not_reach_another(hard: bool) -> None:
    tokens = torch.randn(2, 80, 6)
    clean, _ = cluster(tokens, (8, 10), (3, 4), hard=hard)
    tokens[0, 5, 2] = torch.nan
    centroids, record = cluster(tokens, (8, 10), (3, 4), hard=hard)
    assert centroids[0].isnan().any()
    torch.testing.assert_close(centroids[1], clean[1])
    assert record.mass[1].isfinite().all()


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(1, 80, 6),
        torch.full((1, 80, 6), 7.3),
        1e30 * torch.randn(1, 80, 6),
        3e38 * torch.rand(1, 80, 6),
        1e-30 * torch.randn(1, 80, 6),
        65504 * torch.rand(1, 80, 6).sub(0.5).sign().half(),
    ],
    ids=["zero", "constant", "huge", "nearly the largest", "tiny", "fp16 at its limit"],
)
@pytest.mark.parametrize("temperature", ["auto", 50.0, 1e-12])
@pytest.mark.parametrize("projection", [None, 4])
def test_finite_for_constant_or_huge_inputs(
    tokens: Tensor, temperature: Any, projection: int | None
) -> None:
    settings: dict[str, Any] = {"temperature": temperature, "projection": projection}
    assert cluster(tokens, (8, 10), (3, 4), hard=True, **settings)[0].isfinite().all()
    centroids, record = cluster(tokens, (8, 10), (3, 4), **settings)
    assert centroids.isfinite().all()
    assert isinstance(record.assignment, SoftAssignment)
    assert record.assignment.weights.isfinite().all()
    low, high = tokens.float().min(), tokens.float().max()
    slack = 1e-3 * tokens.float().abs().max()
    assert (centroids.float() >= low - slack).all()
    assert (centroids.float() <= high + slack).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_outlier_channel_does_not_drown_the_distances(dtype: torch.dtype) -> None:
    tokens = torch.randn(1, 400, 32).to(dtype)
    with_outlier = tokens.clone()
    with_outlier[..., 3] = 300
    without = tokens.clone()
    without[..., 3] = 0
    _, plain = cluster(without, (20, 20), (10, 10), temperature=8.0)
    _, shifted = cluster(with_outlier, (20, 20), (10, 10), temperature=8.0)
    assert isinstance(shifted.assignment, SoftAssignment)
    assert isinstance(plain.assignment, SoftAssignment)
    torch.testing.assert_close(
        shifted.assignment.weights, plain.assignment.weights, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_inside_under_autocast(dtype: torch.dtype) -> None:
    tokens = torch.randn(1, 400, 32)
    expected, _ = cluster(tokens, (20, 20), (10, 10))
    with torch.autocast("cpu", dtype=dtype):
        found, record = cluster(tokens, (20, 20), (10, 10))
    assert record.centers.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("hard", [True, False])
def test_clusters_without_mass_are_the_token_in_the_middle_of_their_cell(hard: bool) -> None:
    # Two kinds of tokens, sharply assigned: most cells of a half win nothing.
    tokens = torch.zeros(1, 64, 2)
    tokens[0, ::2, 0] = 1
    tokens = tokens + 1e-3 * torch.randn(1, 64, 2)
    centroids, record = cluster(tokens, (8, 8), (4, 4), temperature=1e-9, hard=hard)
    empty = record.mass[0] < 1e-6
    assert empty.any()
    middle = tokens.view(8, 8, 2)[1::2, 1::2].reshape(16, 2)
    assert torch.equal(centroids[0, empty], middle[empty])


@pytest.mark.parametrize(("grid", "clusters"), CASES)
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_hard_last_step_gives_each_token_to_its_nearest_centre(
    grid: tuple[int, int], clusters: tuple[int, int], iterations: int
) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 6)
    mass = torch.randint(1, 5, (2, grid[0] * grid[1])).float()
    settings: dict[str, Any] = {"mass": mass, "temperature": 2.0}
    centroids, record = cluster(
        tokens, grid, clusters, iterations=iterations, hard=True, **settings
    )
    centers = clustering.average_pool(record.features, grid, clusters)
    if iterations > 1:
        _, soft = cluster(tokens, grid, clusters, iterations=iterations - 1, **settings)
        centers = soft.centers
    found = labels(record)
    for image in range(2):
        distance = torch.cdist(record.features[image], centers[image])
        for p, first in enumerate(first_cells(grid, clusters)):
            for cell in range(distance.shape[1]):
                if not near(first, cell, clusters[1], reach=2):
                    distance[p, cell] = torch.inf
        assert torch.equal(found[image], distance.argmin(1))
        for cell in range(distance.shape[1]):
            own = found[image] == cell
            assert record.mass[image, cell] == mass[image, own].sum()
            if own.any():
                mean = (tokens[image, own] * mass[image, own, None]).sum(0) / mass[image, own].sum()
                torch.testing.assert_close(centroids[image, cell], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pool(tokens, record), centroids)
    some = record.mass > 0
    torch.testing.assert_close(pool(record.features, record)[some], record.centers[some])


def test_distances_are_measured_on_features_and_means_taken_of_tokens() -> None:
    tokens, features = torch.randn(1, 80, 6), torch.randn(1, 80, 3)
    centroids, record = cluster(tokens, (8, 10), (3, 4), features=features, temperature=1.0)
    _, _, weights = cluster_loop(features[0], (8, 10), (3, 4), 5, 5, 1.0)
    expected = weights.T @ tokens[0].double() / weights.sum(0)[:, None]
    torch.testing.assert_close(centroids[0].double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool(tokens, record), centroids)


def test_mass_counts_tokens_as_often_as_it_says() -> None:
    tokens = torch.randn(1, 80, 4)
    mass = torch.randint(1, 5, (1, 80)).float()
    centroids, record = cluster(tokens, (8, 10), (3, 4), iterations=1, mass=mass, temperature=2.0)
    _, _, weights = cluster_loop(tokens[0], (8, 10), (3, 4), 1, 5, 2.0)
    weighted = weights * mass[0, :, None]
    expected = weighted.T @ tokens[0].double() / weighted.sum(0)[:, None]
    torch.testing.assert_close(centroids[0].double(), expected, rtol=1e-4, atol=1e-4)
    assert record.mass.sum().item() == pytest.approx(mass.sum().item(), rel=1e-5)


def test_labels_follow_the_largest_weight() -> None:
    tokens = torch.randn(1, 7 * 9, 4)
    _, record = cluster(tokens, (7, 9), (3, 4), iterations=2, temperature=3.0)
    _, _, weights = cluster_loop(tokens[0], (7, 9), (3, 4), 2, 5, 3.0)
    assert torch.equal(labels(record)[0], weights.argmax(1))


def test_cost_is_linear_in_the_tokens() -> None:
    class Clustered(nn.Module):
        def __init__(self, side: int) -> None:
            super().__init__()
            self.side, self.layer = side, TokenClustering((side // 2, side // 2))

        def forward(self, tokens: Tensor) -> Tensor:
            centroids: Tensor = self.layer(tokens, (self.side, self.side))[0]
            return centroids

    def count(side: int) -> float:
        return count_flops(Clustered(side), torch.randn(1, side * side, 16)).total

    assert 3.5 < count(64) / count(32) < 4.6  # 16 for the dense form


def test_gradients_reach_the_tokens_after_a_pass_under_inference_mode() -> None:
    tokens = torch.randn(1, 80, 6)
    with torch.inference_mode():
        cluster(tokens, (8, 10), (3, 4))
    tokens.requires_grad_()
    cluster(tokens, (8, 10), (3, 4))[0].square().sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    assert tokens.grad.abs().sum() > 0


def test_runs_on_any_device_without_looking_at_values() -> None:
    # A tensor without data: anything that reads a value or names a device fails on it.
    tokens = torch.empty(2, 80, 6, device="meta")
    centroids, record = cluster(tokens, (8, 10), (3, 4))
    assert centroids.device.type == "meta"
    assert record.mass.shape == (2, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_equals_the_cpu_on_a_gpu() -> None:
    tokens = torch.randn(2, 400, 64)
    expected, _ = cluster(tokens, (20, 20), (10, 10))
    found, _ = cluster(tokens.cuda(), (20, 20), (10, 10))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_the_layer_is_the_function() -> None:
    tokens = torch.randn(2, 80, 6)
    layer = TokenClustering((3, 4), iterations=2, neighborhood=3, temperature=2.0, nearest=True)
    assert not list(layer.parameters())
    assert not layer.state_dict()
    found, _ = layer(tokens, (8, 10))
    expected, _ = cluster(
        tokens, (8, 10), (3, 4), iterations=2, neighborhood=3, temperature=2.0, nearest=True
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": (8, 9)}, "80 tokens were given for a grid of 8×9"),
        ({"clusters": (9, 4)}, "9×4 clusters were asked of a grid of 8×10"),
        ({"clusters": (0, 4)}, "0×4 clusters"),
        ({"iterations": 0}, "0 EM iterations"),
        ({"neighborhood": 4}, "neighborhood of 4"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"tokens": torch.zeros(80, 6)}, r"tokens of shape \(80, 6\)"),
        ({"tokens": torch.zeros(1, 80, 6, dtype=torch.int64)}, "torch.int64"),
    ],
)
def test_refuses_what_cannot_be_done(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"tokens": torch.randn(1, 80, 6), "grid": (8, 10), "clusters": (3, 4)}
    with pytest.raises(ExpediteError, match=message):
        cluster(**{**valid, **arguments})


def test_projected_distances_make_nearly_the_same_clusters() -> None:
    blocks = torch.randn(1, 4 * 5, 256).view(1, 4, 5, 256)
    tokens = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1, 2)
    tokens = tokens + 0.1 * torch.randn(tokens.shape)
    exact = cluster(tokens, (16, 20), (4, 5))[0]
    for basis in get_args(Basis):
        projected = cluster(tokens, (16, 20), (4, 5), projection=32, basis=basis)[0]
        torch.testing.assert_close(projected, exact, atol=1e-3, rtol=1e-3)


def test_of_centres_on_one_token_it_joins_the_first() -> None:
    scores = torch.tensor([[[[3.0, 7.00001, 7.00003], [-80.0, -2.0, -2.00001]]]])
    assert clustering.first_of_best(scores).flatten().tolist() == [1, 1]
    assert clustering.first_of_best(torch.tensor([[[[6.99, 7.0]]]])).item() == 1


def test_rounding_does_not_choose_among_equals() -> None:
    tokens = torch.randn(60, 7 * 7, 16)
    noise = tokens * (1 + 1e-6 * torch.randn(tokens.shape))
    settings: dict[str, Any] = {"hard": True, "relocated": 0.3, "sharpness": 4.0}
    (one, _), (other, _) = (cluster(x, (7, 7), (7, 6), **settings) for x in (tokens, noise))
    apart = (one - other).abs().amax((1, 2))
    assert (apart > 1e-3).sum() <= 1  # of the images: a tie of rounding remains where none is seen


def test_sharper_and_longer_centroids_are_those_of_the_record() -> None:
    tokens = torch.randn(2, 80, 6) + 1
    settings: dict[str, Any] = {"hard": True, "sharpness": 4.0, "length": 2.0}
    centroids, record = cluster(tokens, (8, 10), (3, 4), **settings)
    plain, same = cluster(tokens, (8, 10), (3, 4), hard=True)
    assert torch.equal(labels(record), labels(same))
    assert torch.equal(record.mass, same.mass)
    assert not torch.allclose(record.centers, same.centers)
    assert torch.equal(record.centroids, centroids)
    assert (centroids.norm(dim=-1) > plain.norm(dim=-1) * 0.9).all()
    torch.testing.assert_close(reconstruct(centroids, record), tokens)  # nothing has changed


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize(("grid", "clusters"), [((37, 53), (10, 13)), ((31, 29), (17, 8))])
def test_em_within_a_cell_alone(
    grid: tuple[int, int], clusters: tuple[int, int], hard: bool
) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 8)
    settings = {"neighborhood": 1, "hard": hard}
    centroids, record = cluster(tokens, grid, clusters, **settings)  # type: ignore[arg-type]
    assert centroids.isfinite().all()
    assert reconstruct(centroids, record).isfinite().all()
    once = cluster(tokens, grid, clusters, iterations=1, **settings)[0]  # type: ignore[arg-type]
    assert torch.equal(once, centroids)  # a token can join no other cluster, however often


@pytest.mark.parametrize("weights", ["softmax", "l2"])
def test_vanishing_tokens_have_weights_at_a_temperature_of_other_ones(weights: Any) -> None:
    for tokens in (torch.zeros(1, 196, 4), torch.full((1, 196, 4), 1e-35)):
        centroids, record = cluster(tokens, (14, 14), (7, 7), temperature=50.0)
        spread = reconstruct(centroids, record, weights=weights, k=20, delta=False)
        assert spread.isfinite().all()
