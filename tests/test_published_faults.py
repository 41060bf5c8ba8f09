"""The faults of the published code, one test each that they are not ours.

They are those of the eight repositories of the paper's authors: wrong results, operators that break
in half precision, state that leaks between calls, and settings that silently do nothing. Those of
windowed models belong to the Swin patcher.
"""

import pytest
import torch
from torch import Tensor, nn

import expedite
from expedite import ExpediteError
from expedite.geometry.tiling import make_tiles
from expedite.measure.flops import count_flops
from expedite.measure.memory import peak_memory
from expedite.measure.speed import attention_kernel
from expedite.operators.clustering import cluster
from expedite.operators.reconstruction import reconstruct, token_weights
from tests.hosts import images, segmenter, timm_vit
from tests.oracles import dense

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_reconstruction_is_not_a_hard_copy_of_the_nearest_cluster() -> None:
    _, record = cluster(torch.randn(1, 192, 8), (12, 16), (5, 6))
    for kind in ("kriging", "linear", "softmax"):
        weights = dense(token_weights(record, weights=kind), 30)
        assert (weights.abs() > 1e-3).sum(-1).float().mean() > 1.1


def test_weights_sum_to_one_and_not_their_squares() -> None:
    _, record = cluster(torch.randn(1, 192, 8), (12, 16), (5, 6), temperature=20.0)
    ones = torch.ones(1, 30, 1)
    published = reconstruct(ones, record, weights="l2", delta=False)
    assert published.max() > 1.5
    for kind in ("kriging", "linear", "softmax"):
        ours = reconstruct(ones, record, weights=kind, delta=False)
        torch.testing.assert_close(ours, torch.ones_like(ours))


def test_far_tokens_are_not_reconstructed_as_zero_vectors() -> None:
    # exp(-d²/τ) underflows for every cluster unless the smallest distance is taken off first.
    tokens = 1e4 * torch.randn(1, 192, 8)
    _, record = cluster(tokens, (12, 16), (5, 6), temperature=50.0)
    for kind in ("kriging", "linear", "softmax", "l2"):
        spread = reconstruct(torch.ones(1, 30, 1), record, weights=kind, delta=False)
        assert spread.min() > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_labels_are_integers_whatever_the_dtype(dtype: torch.dtype) -> None:
    # 784 labels do not fit into bfloat16, nor 2304 into float16.
    for cells in (28, 48):
        tokens = torch.arange(64 * 64).view(1, -1, 1).to(dtype)
        _, record = cluster(tokens, (64, 64), (cells, cells), iterations=1)
        first = make_tiles(record.grid, record.clusters, 2, tokens.device).first_cell
        assert len(set(first.tolist())) == cells * cells
        assert first.dtype == torch.int64


def test_distances_do_not_overflow_in_half_precision() -> None:
    tokens = (30 * torch.randn(1, 192, 64)).half()
    assert (tokens.float().square().sum(-1) > 65504 / 2).any()
    centroids, record = cluster(tokens, (12, 16), (5, 6))
    assert reconstruct(centroids, record).isfinite().all()


def test_every_token_reaches_the_cell_it_begins_in() -> None:
    # Interpolating label indices once put 21 % of tokens out of their own cell's reach.
    for grid, clusters in [((40, 40), (28, 28)), ((22, 76), (15, 52)), ((7, 5), (3, 4))]:
        tiles = make_tiles(grid, clusters, 1, torch.device("cpu"))
        own = tiles.split(tiles.first_cell[None, :, None])[0]  # (T, n, 1)
        reaches_own = ((tiles.cell[:, None] == own) & tiles.reachable).any(-1)
        assert reaches_own[tiles.filled].all()


def test_no_default_clusters_nothing() -> None:
    with pytest.raises(ExpediteError, match="no alpha was given"):
        expedite.patch(timm_vit())
    with pytest.raises(ExpediteError, match="alpha=-1"):
        expedite.patch(timm_vit(), alpha=-1, clusters=4)
    model = timm_vit()
    plain = model(images())
    for alpha in range(4):
        assert not torch.equal(expedite.patch(model, alpha=alpha, clusters=4)(images()), plain)


def test_flops_are_multiply_adds_and_count_the_operators() -> None:
    assert count_flops(nn.Linear(10, 20), torch.zeros(3, 10)).total * 1e9 == 600
    counted = count_flops(expedite.patch(timm_vit(), alpha=1, clusters=4), images())
    assert 0 < counted.operators < counted.total


def test_a_distillation_token_is_not_a_patch() -> None:
    model = expedite.patch(segmenter(distilled=True), alpha=1, clusters=(4, 5))
    assert expedite.describe(model).prefix_tokens == 2
    assert model(images()).shape == (2, 5, 32, 32)


def test_every_image_of_a_batch_is_reconstructed() -> None:
    tokens = torch.randn(3, 192, 8)
    centroids, record = cluster(tokens, (12, 16), (5, 6))
    change = torch.zeros_like(centroids)
    change[2] = 1
    moved = (reconstruct(centroids + change, record) - tokens).abs().amax((1, 2))
    assert moved[0] == moved[1] == 0
    assert moved[2] > 0.5


def test_clusters_need_not_be_a_square_nor_the_image() -> None:
    model = segmenter()
    for size, cells in [((32, 48), (7, 4)), ((48, 32), (28 // 4, 7)), ((36, 20), (1, 5))]:
        expedite.patch(model, alpha=1, clusters=cells)
        assert model(images(1, *size)).shape == (1, 5, *size)


def test_more_neighbours_than_clusters_are_refused_in_a_sentence() -> None:
    with pytest.raises(ExpediteError, match="k=20 nearest clusters were asked of 4×4"):
        expedite.patch(timm_vit(), alpha=1, clusters=4, weights="linear", k=20)


def test_a_share_of_tokens_follows_the_size_of_the_input() -> None:
    model = expedite.patch(segmenter(), alpha=1, keep=0.25)
    assert expedite.describe(model, grid=(8, 8)).kept == ((4, 4),)
    assert expedite.describe(model, grid=(20, 40)).kept == ((10, 20),)


def test_ties_keep_no_more_than_k_clusters() -> None:
    # With all distances equal the published threshold lets every cluster through.
    _, record = cluster(torch.zeros(1, 192, 4), (12, 16), (5, 6))
    for kind in ("linear", "softmax", "l2"):
        weights = dense(token_weights(record, weights=kind, reconstruction="knn", k=4), 30)
        assert ((weights != 0).sum(-1) == 4).all()


def test_no_parameter_is_replaced_in_a_forward_pass() -> None:
    model = expedite.patch(timm_vit(), alpha=1, clusters=4)
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    model(images())
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before


def test_memory_grows_linearly_in_the_tokens() -> None:
    def peak(side: int) -> int:
        tokens = torch.randn(1, side * side, 16)
        return peak_memory(
            lambda: reconstruct(*cluster(tokens, (side, side), (side // 2, side // 2))),
            torch.device("cpu"),
        )

    assert peak(128) / peak(64) < 4.6  # the dense form: 16


def test_attention_is_never_unfused() -> None:
    model = segmenter()
    before = attention_kernel(model, images())
    assert attention_kernel(expedite.patch(model, alpha=1, clusters=4), images()) == before


def test_what_a_call_leaves_does_not_change_the_next() -> None:
    model = expedite.patch(segmenter(), alpha=1, keep=0.25)
    first = model(images())
    model(images(3, 48, 40))
    assert torch.equal(model(images()), first)


def test_blocks_that_see_as_many_clusters_as_once_tokens_are_still_reconstructed() -> None:
    # Comparing counts, as the published code does, cannot tell 16 clusters from 16 tokens.
    model = expedite.patch(segmenter(), alpha=1, clusters=4)
    (scores,) = (model(images(1, 32, 32)),)
    assert scores.shape == (1, 5, 32, 32)
    small: Tensor = images(1, 16, 16)  # 4×4 tokens: nothing to cluster
    assert torch.equal(model(small), expedite.unpatch(model)(small))
