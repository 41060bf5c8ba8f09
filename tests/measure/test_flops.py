"""Counts against arithmetic by hand."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import expedite
from expedite.measure.flops import count_flops
from expedite.models.segmenter_files import build_segmenter
from tests.hosts import images, segmenter, timm_vit

GIGA = 1e9


def operations(call: nn.Module, x: Tensor) -> int:
    """The multiply-adds of a call, as the whole number they are."""
    return round(count_flops(call, x).total * GIGA)


class Calls(nn.Module):
    """A function as a module, with the modules that it calls."""

    def __init__(self, call: Any, *called: nn.Module) -> None:
        super().__init__()
        self.call = call
        self.called = nn.ModuleList(called)

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


def test_fused_attention_counts_both_products() -> None:
    x = torch.zeros(2, 3, 5, 8)  # batch, heads, tokens, width
    attend = Calls(lambda x: F.scaled_dot_product_attention(x, x, x))
    assert operations(attend, x) == 2 * (2 * 3 * 5 * 5 * 8)
    assert not count_flops(attend, x).unsupported


def test_attention_with_other_keys_and_wider_values() -> None:
    key, value = torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 6)
    attend = Calls(lambda x: F.scaled_dot_product_attention(x, key, value))
    assert operations(attend, torch.zeros(1, 2, 5, 8)) == 2 * 5 * 7 * (8 + 6)


def test_baddbmm() -> None:
    left, right = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
    product = Calls(lambda x: torch.baddbmm(x, left, right))
    assert operations(product, torch.zeros(2, 3, 5)) == 2 * 3 * 4 * 5


@pytest.mark.parametrize("antialias", [False, True])
def test_interpolation_counts_every_input_that_an_output_is_a_mean_of(antialias: bool) -> None:
    resize = Calls(lambda x: F.interpolate(x, (5, 6), mode="bicubic", antialias=antialias))
    assert operations(resize, torch.zeros(2, 3, 4, 4)) == 2 * 3 * (5 * 6) * 16
    stretch = Calls(lambda x: F.interpolate(x, 9, mode="linear"))
    assert operations(stretch, torch.zeros(2, 3, 4)) == 2 * 3 * 9 * 2


def test_multihead_attention_is_not_hidden_by_its_fast_path() -> None:
    layer = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    attend = Calls(lambda x: layer(x, x, x, need_weights=False), layer)
    assert operations(attend, torch.zeros(1, 9, 16)) == 4 * 9 * 16 * 16 + 2 * 9 * 9 * 16
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_nobody_knows_is_listed() -> None:
    found = count_flops(Calls(lambda x: torch.cdist(x, x)), torch.zeros(1, 4, 3))
    assert found.unsupported == {"aten::cdist": 1}


def test_dictionaries_and_nested_outputs_are_counted() -> None:
    layer = nn.Linear(4, 8)
    nested = Calls(lambda x: {"a": [layer(x)], "b": (layer(x), None)}, layer)
    assert operations(nested, torch.zeros(1, 4)) == 64


def vit_by_hand(
    depth: int, width: int, tokens: int, prefix: int, patch: int, classes: int
) -> float:
    """Multiply-adds of a plain ViT without norms: patches, blocks, class head."""
    n = tokens + prefix
    block = 12 * n * width**2 + 2 * n**2 * width
    return tokens * 3 * patch**2 * width + depth * block + classes * width


def test_a_plain_vit_equals_the_count_by_hand() -> None:
    model = timm.create_model("vit_small_patch16_224").eval()
    expected = vit_by_hand(12, 384, 196, 1, 16, 1000)
    norms = 25 * 197 * 384 * 5  # fvcore counts 5 for every element
    assert operations(model, torch.zeros(1, 3, 224, 224)) == expected + norms


def segmenter_by_hand(alpha: int | None) -> float:
    """Segmenter ViT-L/16 at 640×640 with 150 classes, in GFLOPs, without norms and resizing.

    With an alpha: 28×28 clusters from there on, the decoder on clusters, its scores reconstructed.
    """
    width, tokens, clusters, classes = 1024, 1600, 28 * 28, 150

    def block(n: int) -> int:
        return 12 * n * width**2 + 2 * n**2 * width

    kept = tokens if alpha is None else clusters
    full = 24 if alpha is None else alpha
    encoder = full * block(tokens + 1) + (24 - full) * block(kept + 1)
    decoder = 2 * block(kept + classes) + (2 * kept + classes) * width**2
    embedding = tokens * 3 * 16**2 * width
    return (embedding + encoder + decoder + kept * classes * width) / GIGA


@pytest.mark.slow
def test_segmenter_large_agrees_with_the_count_by_hand() -> None:
    with torch.device("meta"):  # shapes are all that a count needs
        model = build_segmenter("vit_large_patch16_384", (640, 640))[0].eval()
        x = torch.zeros(1, 3, 640, 640)
    assert segmenter_by_hand(None) == pytest.approx(671.1, abs=0.1)
    assert segmenter_by_hand(10) == pytest.approx(440.2, abs=0.1)
    assert count_flops(model, x).total == pytest.approx(671.1, rel=0.005)
    for method in ("expedite", "paper"):
        expedite.patch(model, alpha=10, clusters=28, method=method, reconstruct_at="head")
        count = count_flops(model, x)
        assert count.total - count.operators == pytest.approx(440.2, rel=0.005)
        assert 0 < count.operators < 0.01 * count.total


@pytest.mark.parametrize("make", [timm_vit, segmenter])
@pytest.mark.parametrize("weights", ["kriging", "linear", "softmax", "l2", "hard"])
@pytest.mark.parametrize("reconstruction", ["local", "knn"])
def test_every_plan_is_counted_whole(make: Any, weights: str, reconstruction: str) -> None:
    model = make()
    base = count_flops(model, images(1))
    expedite.patch(
        model, alpha=1, clusters=4, weights=weights, reconstruction=reconstruction, delta=False
    )
    patched = count_flops(model, images(1))
    assert not patched.unsupported
    assert patched.total - patched.operators < base.total


def test_counting_leaves_the_model_alone() -> None:
    model = expedite.patch(timm_vit(), alpha=1, clusters=4)
    before = model(images())
    hooks = [len(module._forward_hooks) for module in model.modules()]
    count_flops(model, images())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.equal(model(images()), before)


def test_a_share_to_keep_counts_like_the_clusters_it_stands_for() -> None:
    model = timm_vit()
    share = count_flops(expedite.patch(model, alpha=1, keep=0.25), images(1))
    assert share == count_flops(expedite.patch(model, alpha=1, clusters=4), images(1))


def test_picking_the_largest_and_standardizing_count_nothing() -> None:
    pick = Calls(lambda x: F.max_pool2d(x, 3, 2) - torch.std_mean(x)[1].ceil())
    found = count_flops(pick, torch.zeros(1, 4, 9, 9))
    assert (found.total, found.unsupported) == (0, {})


def test_convolutions_whose_padding_is_a_word_and_rows_that_are_read() -> None:
    class Embedded(nn.Module):
        def __init__(self, padding: Any) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(4, 6, 3, padding=padding, groups=2)
            self.positions = nn.Embedding(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            maps: Tensor = self.convolution(x)
            rows: Tensor = self.positions(torch.zeros(1, dtype=torch.long))
            return maps.mean((2, 3)) + rows

    x = torch.zeros(2, 4, 8, 8)
    for padding, word in ((0, "valid"), (1, "same")):
        numbers, words = (count_flops(Embedded(given), x) for given in (padding, word))
        assert words == numbers
        assert words.unsupported == {}
        assert words.total > 0


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _product(x: Tensor) -> Tensor:
    return x @ x.mT


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_what_becomes_torchscript_when_it_is_traced_is_counted() -> None:
    found = count_flops(Calls(_product), torch.zeros(1, 8, 4))
    assert (found.total * 1e9, found.unsupported) == (8 * 4 * 8, {})
