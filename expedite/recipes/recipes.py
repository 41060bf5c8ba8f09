"""The published settings by name, with the figures that were published for them.

From the READMEs of the Expedit repositories (arXiv 2210.01035): their own rows, not those of the
methods they compare with. FPS is at batch 1 on a V100 with attention that is not fused.
"""

from collections.abc import Callable
from functools import partial

from expedite.errors import ExpediteError
from expedite.plan import Plan
from expedite.recipes.recipe import Recipe, Row, paper
from expedite.recipes.swin_recipes import SWIN_RECIPES


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Example:
        >>> recipe = find_recipe("segmenter-vit-l16-ade20k")
        >>> [(row.plan.spans[0].alpha, row.gflops) for row in recipe.rows if row.plan]
        [(16, 529.81), (10, 443.84), (8, 309.4)]
    """
    if name not in RECIPES:
        raise ExpediteError(f"the recipe '{name}' was asked; known are {', '.join(RECIPES)}")
    return RECIPES[name]


# Class scores are reconstructed, after a decoder that runs on clusters (λ 5, κ 5, τ 50, k 20).
_segmenter: Callable[..., Plan] = partial(paper, reconstruct_at="head")
# Every tap copies the nearest cluster; a τ of 1 is the parser's default.
_dpt: Callable[..., Plan] = partial(paper, temperature=1.0, weights="hard")
# Only the class token is read, so nothing is reconstructed.
_swag: Callable[..., Plan] = partial(paper, temperature=1.0)
# Clusters of a window of 14×14; the scripts that were timed set τ 200.
_sam: Callable[..., Plan] = partial(paper, temperature=200.0)

_segmenter_recipe = partial(Recipe, metric="mIoU %", checkpoint="checkpoint.pth")
_dpt_recipe = partial(
    Recipe,
    classes=None,
    metric="RMSE m",
    origin="https://github.com/isl-org/DPT/releases/download/1_0",
    flops_per_multiply_add=2,
)
_swag_recipe = partial(
    Recipe, classes=1000, metric="top-1 %", origin="https://download.pytorch.org/models"
)
_SEGMENTERS = "https://www.rocq.inria.fr/cluster-willow/rstrudel/segmenter/checkpoints"
_LARGE, _BASE = "segmenter:vit_large_patch16_384", "segmenter:vit_base_patch16_384"

_NO_DECODER_ATTENTION = "the published count leaves out the decoder's attention products"
_SHORT = "the published count is short of one by hand, which the clustered rows agree with"
_DENSE = "the published count has operators that look at every pair of token and cluster"

_ALL = (
    _segmenter_recipe(
        "segmenter-vit-l16-ade20k",
        _LARGE,
        (640, 640),
        150,
        origin=f"{_SEGMENTERS}/ade20k/seg_large_mask_640",
        rows=(
            Row(None, 658.98, 6.55, 51.82),
            Row(_segmenter(16, 28), 529.81, 7.92, 51.93),
            Row(_segmenter(10, 28), 443.84, 9.51, 51.56),
            Row(_segmenter(8, 20), 309.4, 13.51, 47.96),
        ),
        dataset="ade20k",
        windows=(640, 640),
    ),
    _segmenter_recipe(
        "segmenter-vit-b16-ade20k",
        _BASE,
        (512, 512),
        150,
        origin=f"{_SEGMENTERS}/ade20k/seg_base_mask",
        rows=(
            Row(None, 124.7, None, 48.48, reason=_NO_DECODER_ATTENTION),
            Row(
                _segmenter(7, 22),
                91.9,
                None,
                48.40,
                note="the paper (Table 5) gives neither α nor h×w; these fit its count",
                reason=_NO_DECODER_ATTENTION,
            ),
        ),
        dataset="ade20k",
        windows=(512, 512),
    ),
    _segmenter_recipe(
        "segmenter-vit-l16-cityscapes",
        _LARGE,
        (768, 768),
        19,
        origin=f"{_SEGMENTERS}/cityscapes/seg_large_mask",
        rows=(
            Row(None, 995.6, 4.20, 79.14, reason=_SHORT),
            Row(_segmenter(18, 32), 840.9, 4.82, 78.82),
            Row(_segmenter(12, 32), 691.0, 5.89, 78.38),
            Row(_segmenter(10, 24), 529.64, 8.02, 76.20),
        ),
        dataset="cityscapes",
        windows=(1024, 512),
    ),
    _segmenter_recipe(
        "segmenter-vit-l16-pascal-context",
        _LARGE,
        (480, 480),
        60,
        origin=f"{_SEGMENTERS}/pascal_context/seg_large_mask",
        rows=(
            Row(None, 338.7, 14.7, 58.07),
            Row(_segmenter(14, 20), 251.2, 18.2, 58.27),
            Row(_segmenter(12, 15), 201.3, 21.6, 57.85),
            Row(_segmenter(8, 15), 161.0, 25.0, 55.08),
        ),
        dataset="pascal_context",
        windows=(520, 320),
    ),
    _dpt_recipe(
        "dpt-hybrid-kitti",
        "dpt:dpt_hybrid_kitti",
        (352, 1216),
        checkpoint="dpt_hybrid_kitti-cb926ef4.pt",
        rows=(
            Row(None, 810.0, 12.55, 2.573),
            Row(
                _dpt(7, (15, 52)),
                723.4,
                13.30,
                2.593,
                note="published as α 6, 28×28, which pools 22 rows of tokens into 28; as many "
                "clusters in the image's aspect stand here",
            ),
            Row(_dpt(5, 20), 631.8, 16.41, 2.625, note="published as α 4"),
            Row(_dpt(5, 16), 613.6, 17.14, 2.660, note="published as α 4"),
        ),
    ),
    _dpt_recipe(
        "dpt-hybrid-nyuv2",
        "dpt:dpt_hybrid_nyu",
        (480, 640),
        checkpoint="dpt_hybrid_nyu-2ce69ec7.pt",
        rows=(
            Row(None, 560.2, 18.66, 0.357),
            Row(_dpt(7, 24), 504.2, 19.19, 0.360, note="published as α 6"),
            Row(_dpt(5, 16), 439.2, 22.08, 0.362, note="published as α 4"),
            Row(_dpt(3, 14), 395.0, 26.02, 0.364, note="published as α 2"),
        ),
    ),
    _swag_recipe(
        "swag-vit-l16",
        "torchvision:vit_l_16",
        (512, 512),
        checkpoint="vit_l_16_swag-4f3808c9.pth",
        rows=(
            Row(None, 364.8, 12.7, 88.1),
            Row(_swag(12, 23), 275.8, 15.8, 87.8, reason=_DENSE),
            Row(_swag(6, 23), 228.5, 19.4, 87.7, reason=_DENSE),
            Row(_swag(8, 16), 179.0, 23.3, 87.2, reason=_DENSE),
        ),
    ),
    _swag_recipe(
        "swag-vit-h14",
        "torchvision:vit_h_14",
        (518, 518),
        checkpoint="vit_h_14_swag-80465313.pth",
        rows=(
            Row(None, 1023.2, 5.0, 88.5),
            Row(_swag(10, 26), 652.4, 7.4, 88.4, reason=_DENSE),
            Row(_swag(4, 25), 514.1, 9.8, 87.6, reason=_DENSE),
            Row(_swag(8, 18), 422.7, 11.2, 87.4, reason=_DENSE),
        ),
    ),
    Recipe(
        name="sam-vit-h",
        model="sam:vit_h",
        image_size=(1024, 1024),
        classes=None,
        metric="",
        checkpoint="sam_vit_h_4b8939.pth",
        origin="https://dl.fbaipublicfiles.com/segment_anything",
        rows=(
            Row(None, None, 1.27, None),
            Row(_sam(18, 11), None, 1.40, None),
            Row(_sam(14, 10), None, 1.52, None),
            Row(_sam(8, 10), None, 1.64, None),
            Row(_sam(8, 9), None, 1.82, None),
            Row(_sam(6, 9), None, 1.89, None),
        ),
    ),
)
RECIPES = {recipe.name: recipe for recipe in (*_ALL, *SWIN_RECIPES)}
