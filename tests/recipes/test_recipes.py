"""The published settings: every plan fits its model, and no figure is mistyped."""

from math import prod

import pytest
import torch
from torchvision import models  # type: ignore[import-untyped]

import expedite
from expedite import ExpediteError
from expedite.data.truths import LABEL_RULES
from expedite.loading import load_model
from expedite.models.segmenter_files import BACKBONES
from expedite.recipes import RECIPES, Recipe, Row, find_recipe

PLAIN = [name for name in RECIPES if name.startswith(("segmenter", "swag"))]
SWINS = [name for name in RECIPES if "-swin-l-" in name]
# Depth, width and patch size.
SIZES = {
    "vit_large_patch16_384": (24, 1024, 16),
    "vit_base_patch16_384": (12, 768, 16),
    "vit_l_16": (24, 1024, 16),
    "vit_h_14": (32, 1280, 14),
}


def test_names() -> None:
    assert list(RECIPES) == [
        "segmenter-vit-l16-ade20k",
        "segmenter-vit-b16-ade20k",
        "segmenter-vit-l16-cityscapes",
        "segmenter-vit-l16-pascal-context",
        "dpt-hybrid-kitti",
        "dpt-hybrid-nyuv2",
        "swag-vit-l16",
        "swag-vit-h14",
        "sam-vit-h",
        *SWINS,
        "swinv2-l-htc",
    ]
    assert all(find_recipe(name).name == name for name in RECIPES)
    with pytest.raises(ExpediteError, match="known are segmenter-vit-l16-ade20k, "):
        find_recipe("swin")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_rows_begin_with_the_unpatched_model_and_buy_speed(recipe: Recipe) -> None:
    base, *rows = recipe.rows
    assert base.plan is None
    assert rows
    for row in rows:
        assert row.plan is not None
        assert row.plan.temperature in (1, 20, 50, 100, 200)
        assert (row.gflops or 0) < (base.gflops or 1)
        assert (row.fps or 1) > (base.fps or 0)
    assert recipe.dataset in {"", *LABEL_RULES}


@pytest.mark.parametrize("name", PLAIN)
def test_every_plan_fits_its_model(name: str) -> None:
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = load_model(name).model
    for row in recipe.rows[1:]:
        expedite.patch(model, row.plan)


def test_dpt_counts_the_blocks_before_clustering() -> None:
    rows = RECIPES["dpt-hybrid-nyuv2"].rows[1:]
    assert [row.plan.spans[0].alpha for row in rows if row.plan] == [7, 5, 3]
    assert all(
        row.note == f"published as α {alpha}" for row, alpha in zip(rows, (6, 4, 2), strict=True)
    )
    for name in ("dpt-hybrid-kitti", "dpt-hybrid-nyuv2"):
        height, width = RECIPES[name].image_size
        for row in RECIPES[name].rows[1:]:
            assert row.plan is not None
            clusters = row.plan.spans[0].grid_for((0, 0))
            assert clusters[0] <= height // 16
            assert clusters[1] <= width // 16


def test_weights_are_where_the_libraries_have_them() -> None:
    for recipe, weights in {
        "swag-vit-l16": models.ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1,
        "swag-vit-h14": models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1,
    }.items():
        found = RECIPES[recipe]
        assert f"{found.origin}/{found.checkpoint}" == weights.url
        assert found.image_size == tuple(weights.meta["min_size"])
    for name in PLAIN[:4]:
        assert RECIPES[name].model.removeprefix("segmenter:") in BACKBONES


def by_hand(recipe: Recipe, row: Row) -> float:
    """Multiply-adds in GFLOPs, without norms, the decoder's attention and the operators."""
    kind, name = recipe.model.split(":")
    depth, width, patch = SIZES[name]
    tokens = prod(side // patch for side in recipe.image_size)
    kept, alpha = tokens, depth
    if row.plan is not None:
        (span,) = row.plan.spans
        kept, alpha = prod(span.grid_for((0, 0))), span.alpha

    def block(n: int) -> int:
        return 12 * n * width**2 + 2 * n**2 * width

    total = tokens * 3 * patch**2 * width + alpha * block(tokens) + (depth - alpha) * block(kept)
    if kind == "segmenter" and recipe.classes is not None:
        total += 2 * 12 * (kept + recipe.classes) * width**2 + 2 * kept * width**2
    return total / 1e9


@pytest.mark.parametrize("name", PLAIN)
def test_published_counts_are_near_a_count_by_hand(name: str) -> None:
    for row in RECIPES[name].rows:
        near = 0.055 if row.reason else 0.025
        assert row.gflops == pytest.approx(by_hand(RECIPES[name], row), rel=near)


def swin_by_hand(recipe: Recipe, row: Row) -> float:
    """Multiply-adds of Swin-L in GFLOPs, without norms and the operators."""
    side, width, block = recipe.image_size[0] // 4, 192, 0
    total = side**2 * 3 * 4**2 * width
    for stage, depth in enumerate((2, 2, 18, 2)):
        if stage:  # merging four tokens
            side, width = -(-side // 2), 2 * width
            total += side**2 * 2 * width * width
        for _ in range(depth):
            window, length, span = 12, side, row.plan.spans[0] if row.plan else None
            if stage == 2 and span and block >= span.alpha:
                window = span.grid_for((12, 12))[0]
                length = -(-side // 12) * window  # padding is clustered too
            padded = (-(-length // window) * window) ** 2
            total += 4 * padded * width**2 + 2 * padded * window**2 * width
            total += 8 * length**2 * width**2
            block += 1
    return total / 1e9


@pytest.mark.parametrize("name", SWINS)
def test_published_counts_of_swin_l_are_near_a_count_by_hand(name: str) -> None:
    for row in RECIPES[name].rows:
        near = 0.055 if row.reason else 0.01
        assert row.gflops == pytest.approx(swin_by_hand(RECIPES[name], row), rel=near)


def test_the_alpha_of_each_row_of_swin_l_is_that_of_its_count() -> None:
    """From 938 GFLOPs each clustered block takes 21.25, at 8×8 clusters a window of 12×12."""
    others = {}
    for name in SWINS:
        for row in RECIPES[name].rows[1:]:
            assert row.plan is not None
            assert row.gflops is not None
            ((span, first, end),) = row.plan.ranges((2, 2, 18, 2))
            assert end == 22
            if span.clusters == (8, 8) and RECIPES[name].image_size == (1152, 1152):
                counted = 22 - (938 - row.gflops) / 21.25
                assert counted == pytest.approx(round(counted), abs=0.1)
                if round(counted) != first:
                    others[name] = (first, round(counted))
                    assert row.note == f"its count is that of α {round(counted)}"
    assert others == {
        "mask2former-swin-l-coco-panoptic": (10, 9),
        "mask2former-swin-l-coco-instance": (12, 11),
    }


def test_swinv2_has_the_span_of_the_paper() -> None:
    row = RECIPES["swinv2-l-htc"].rows[1]
    assert row.plan is not None
    ((span, first, end),) = row.plan.ranges((2, 2, 18, 2))
    assert (first, end, span.clusters) == (12, 22, (23, 23))


@pytest.mark.parametrize("name", ["dino-swin-l-coco", "swinv2-l-htc"])
def test_plans_of_swins_fit_their_models(name: str) -> None:
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = load_model(name).model.get_submodule(recipe.counted)
    for row in recipe.rows[1:]:
        expedite.patch(model, row.plan)
    height, width = recipe.image_size
    assert expedite.describe(model, (height // 4, width // 4)).kept[0][0] < height // 16


def test_the_counted_part_of_a_mask2former_is_its_backbone() -> None:
    recipe = RECIPES["mask2former-swin-l-coco-panoptic"]
    with torch.device("meta"):
        model = load_model(recipe.model).model
    host = expedite.describe(expedite.patch(model, recipe.rows[1].plan))
    assert host.path == recipe.counted
    assert host.plan == recipe.rows[1].plan
