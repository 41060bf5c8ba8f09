import pytest
import torch
from torch import Tensor
from torchvision.models import VisionTransformer  # type: ignore[import-untyped]

import expedite
from expedite.measure.flops import count_flops
from expedite.operators.clustering import cluster
from tests.hosts import counted_reconstructions, images, torchvision_vit
from tests.oracles import RELOCATED, normalized

pytestmark = pytest.mark.usefixtures("no_gradients")


def by_hand(model: VisionTransformer, x: Tensor) -> Tensor:
    """The scores with blocks 2 to 4 on 4×5 clusters, written with nn.MultiheadAttention itself."""
    tokens = torch.cat([model.class_token.expand(len(x), -1, -1), model._process_input(x)], 1)
    blocks = model.encoder.layers
    tokens = blocks[0](tokens + model.encoder.pos_embedding)
    body = tokens[:, 1:]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **RELOCATED)
    tokens = torch.cat([tokens[:, :1], centroids], 1)
    log_mass = torch.cat([torch.zeros(len(x), 1), record.mass.log()], 1)
    scores = log_mass[:, None, None].expand(-1, 2, 21, -1).flatten(0, 1)  # (B·heads, 21, 21)
    for block in blocks[1:]:
        normed = block.ln_1(tokens)
        attended, _ = block.self_attention(normed, normed, normed, attn_mask=scores)
        tokens = tokens + attended
        tokens = tokens + block.mlp(block.ln_2(tokens))
    result: Tensor = model.heads(model.encoder.ln(tokens)[:, 0])
    return result


def test_equals_the_operators_by_hand() -> None:
    model, x = torchvision_vit(), images()
    expected = by_hand(model, x)
    found = expedite.patch(model, alpha=1, clusters=(4, 5))(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_only_the_class_token_is_read_so_nothing_is_reconstructed() -> None:
    model = expedite.patch(torchvision_vit(), alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        model(images())
    assert calls == []


def test_a_span_that_ends_early_is_reconstructed_once() -> None:
    model = expedite.patch(torchvision_vit(), alpha=1, beta=2, clusters=4)
    with counted_reconstructions(model) as calls:
        assert model(images()).shape == (2, 10)
    assert len(calls) == 1


def test_describe_and_counts() -> None:
    model = torchvision_vit(image_size=48, patch_size=8)
    found = expedite.describe(model)
    assert (found.grid, found.prefix_tokens, found.blocks) == ((6, 6), 1, 4)
    assert found.family == "torchvision VisionTransformer"
    before = count_flops(model, images(1, 48, 48))
    after = count_flops(expedite.patch(model, alpha=1, clusters=3), images(1, 48, 48))
    assert after.total < before.total
    assert not after.unsupported


def test_the_sizes_of_swag_are_hosts() -> None:
    # ViT-H/14 at 518 and ViT-L/16 at 512, without the memory: on the meta device.
    sizes = {"num_heads": 16, "num_classes": 1000, "mlp_dim": 64, "num_layers": 2}
    with torch.device("meta"):
        huge = VisionTransformer(518, 14, hidden_dim=1280, **sizes)
        large = VisionTransformer(512, 16, hidden_dim=1024, **sizes)
        assert expedite.describe(huge).grid == (37, 37)
        assert expedite.describe(large).grid == (32, 32)
        expedite.patch(huge.eval(), alpha=1, clusters=20)
        assert huge(torch.empty(2, 3, 518, 518)).shape == (2, 1000)
