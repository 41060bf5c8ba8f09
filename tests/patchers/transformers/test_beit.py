"""transformers' BEiT: sizes, masks, poolings; what it shares with other ViTs is tested there."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.operators.clustering import cluster
from tests.hosts import Tokens, counted_reconstructions, images, randomized
from tests.oracles import IN_PLACE, normalized
from tests.patchers.transformers.test_vit import BEIT, VIT, beit_segmenter
from tests.patching.test_oracles import HARD, blocky

hf: Any = transformers

pytestmark = pytest.mark.usefixtures("no_gradients")

BIASES = pytest.mark.parametrize(
    "biases",
    [
        {"use_relative_position_bias": True},
        {"use_shared_relative_position_bias": True},
        {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
    ],
    ids=["each", "shared", "both"],
)


def beit(**changes: Any) -> Any:
    torch.manual_seed(0)
    return randomized(hf.BeitModel(hf.BeitConfig(**{**VIT, **changes})))


@BIASES
@pytest.mark.parametrize(
    ("made_for", "size"),
    [(32, (44, 28)), (32, (64, 64)), ((24, 40), (24, 40)), ((24, 40), (40, 36))],
)
@pytest.mark.parametrize("interpolate", [True, False])
def test_images_of_other_sizes(
    biases: dict[str, bool],
    made_for: Any,
    size: tuple[int, int],
    interpolate: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = beit(**biases, image_size=made_for), images(1, *size)
    options = {"interpolate_pos_encoding": interpolate}
    plain = model(x, **options).last_hidden_state
    shape = expedite.patch(model, alpha=1, clusters=(4, 5))(x, **options).last_hidden_state.shape
    assert shape == plain.shape
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=(size[0] // 4, size[1] // 4), **HARD)
    found = model(x, **options).last_hidden_state
    torch.testing.assert_close(found, plain, rtol=2e-3, atol=2e-3)


@BIASES
def test_cells_of_equal_tokens_cluster_without_loss_where_tables_are_zero(
    biases: dict[str, bool],
) -> None:
    model, x = beit(**biases), blocky(images(), 4)
    for path, parameter in model.named_parameters():
        if path.endswith(("position_embeddings", "relative_position_bias_table")):
            parameter.zero_()
    plain = model(x).last_hidden_state
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    torch.testing.assert_close(model(x).last_hidden_state, plain, rtol=1e-3, atol=1e-3)


def test_blocks_on_clusters_never_make_the_bias_of_the_full_grid() -> None:
    model = beit(use_relative_position_bias=True)
    sizes: list[int] = []
    for layer in model.layers:
        layer.relative_position_bias.register_forward_hook(
            lambda module, args, output: sizes.append(output.shape[-1])
        )
    expedite.patch(model, alpha=1, beta=2, clusters=(4, 5))(images())
    assert sizes == [65, 21, 21, 65]


@BIASES
def test_eager_attention_gives_the_same(biases: dict[str, bool]) -> None:
    model, x = beit(**biases), images()
    fused = expedite.patch(model, alpha=1, clusters=4)(x).last_hidden_state
    expedite.unpatch(model).set_attn_implementation("eager")
    eager = expedite.patch(model, alpha=1, clusters=4)(x).last_hidden_state
    torch.testing.assert_close(eager, fused, rtol=1e-3, atol=1e-3)


@BIASES
def test_masks_over_the_full_grid_are_refused(biases: dict[str, bool]) -> None:
    model, x = beit(**biases), images()
    expedite.patch(model, alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="was called with a mask"):
        model(x, attention_mask=torch.cat([torch.ones(2, 64), torch.zeros(2, 1)], 1))
    assert model(x).last_hidden_state.shape == (2, 65, 32)


def test_mean_pooling_gets_the_mass_weighted_mean() -> None:
    torch.manual_seed(0)
    model, x = randomized(hf.BeitForImageClassification(hf.BeitConfig(**VIT))), images()
    found = expedite.patch(model, alpha=3, clusters=(4, 5), log_mass=False)(x).logits
    expedite.unpatch(model)
    tokens = model.beit.embeddings(x)
    for layer in model.beit.layers[:3]:
        tokens = layer(tokens)
    body, last = tokens[:, 1:], model.beit.layers[3]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **IN_PLACE)
    after = last(torch.cat([tokens[:, :1], centroids], 1))[:, 1:]
    pooled = (record.mass[..., None] / 64 * after).sum(1)
    expected = model.classifier(model.beit.pooler.layernorm(pooled))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_masked_image_modelling() -> None:
    torch.manual_seed(0)
    config = hf.BeitConfig(**BEIT, use_mask_token=True, vocab_size=11)
    model, x = randomized(hf.BeitForMaskedImageModeling(config)), images()
    masked = torch.rand(2, 64, generator=torch.Generator().manual_seed(0)) < 0.4
    plain = model(x, bool_masked_pos=masked).logits
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model(x, bool_masked_pos=masked).logits
    assert calls == [16]
    assert found.shape == plain.shape == (2, 64, 11)
    assert not torch.allclose(found, plain)


def test_a_segmenter_that_reads_the_embedding_can_begin_with_clusters() -> None:
    model, x = randomized(beit_segmenter()), images()
    model.config.out_indices = [1, 2, 3, 4]
    for alpha in (0, 1):
        assert expedite.patch(model, alpha=alpha, clusters=4)(x).logits.shape == (2, 2, 32, 32)


def test_a_patched_model_in_a_pipeline() -> None:
    torch.manual_seed(0)
    model = randomized(beit_segmenter())
    processor = hf.BeitImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, do_reduce_labels=False
    )
    segment = hf.pipeline("image-segmentation", model=model, image_processor=processor)
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    seen: list[Tensor] = []
    model.decode_head.register_forward_hook(lambda module, args, output: seen.append(output))
    for _ in range(2):
        found = segment(Image.fromarray(noise))
        assert {part["mask"].size for part in found} == {(60, 40)}
        expedite.patch(model, alpha=1, clusters=4)
    assert not torch.allclose(seen[0], seen[1])


def test_nothing_goes_uncounted() -> None:
    model = expedite.patch(Tokens(beit(use_relative_position_bias=True)), alpha=1, clusters=4)
    assert count_flops(model, images(1)).unsupported == {}
