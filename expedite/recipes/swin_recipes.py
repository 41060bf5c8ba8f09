"""The published settings of Swins: the backbones of Mask2Former, OneFormer, DINO and HTC++.

From the READMEs and configurations of the Expedit repositories, and for HTC++ from the paper.
"""

from collections.abc import Callable
from functools import partial

from expedite.plan import Plan
from expedite.recipes.recipe import Recipe, Row, paper

# Clusters of a window of 12×12 in the third stage; what the published configurations share, and
# what their code does of its own accord.
_swin: Callable[..., Plan] = partial(paper, temperature=100.0, window_padding=True, kept_shift=True)
_dino: Callable[..., Plan] = partial(_swin, iterations=3, k=25)
_oneformer: Callable[..., Plan] = partial(_swin, iterations=4, neighborhood=7, k=49)

# Counts and speeds are those of the backbone alone, at a size that all its windows divide.
_mask2former_recipe = partial(
    Recipe,
    model="mask2former:swin_large",
    image_size=(1152, 1152),
    counted="model.pixel_level_module.encoder",
)
_swin_recipe = partial(Recipe, model="swin:swin_large", classes=None)
_MASK2FORMERS = "https://dl.fbaipublicfiles.com/maskformer/mask2former"
_DINOS = "https://github.com/IDEA-Research"

_ONE_LESS = "the published count is that of one full block less than its row and its settings have"

SWIN_RECIPES = (
    _mask2former_recipe(
        "mask2former-swin-l-coco-panoptic",
        classes=133,
        metric="PQ",
        checkpoint="model_final_f07440.pkl",
        origin=f"{_MASK2FORMERS}/coco/panoptic/maskformer2_swin_large_IN21k_384_bs16_100ep",
        rows=(
            Row(None, 937.0, 4.3, 57.8),
            Row(
                _swin(10, 8, temperature=20.0, neighborhood=7, k=10),
                663.0,
                5.9,
                56.8,
                note="its count is that of α 9",
                reason=_ONE_LESS,
            ),
        ),
    ),
    _mask2former_recipe(
        "mask2former-swin-l-coco-instance",
        classes=80,
        metric="mask AP",
        checkpoint="model_final_e5f453.pkl",
        origin=f"{_MASK2FORMERS}/coco/instance/maskformer2_swin_large_IN21k_384_bs16_100ep",
        rows=(
            Row(None, 937.0, 4.3, 50.1),
            Row(
                _swin(12, 8, neighborhood=11, k=60),
                705.0,
                5.4,
                49.1,
                note="its count is that of α 11",
                reason=_ONE_LESS,
            ),
        ),
    ),
    _mask2former_recipe(
        "mask2former-swin-l-ade20k-panoptic",
        classes=150,
        metric="PQ",
        checkpoint="model_final_e0c58e.pkl",
        origin=f"{_MASK2FORMERS}/ade20k/panoptic/maskformer2_swin_large_IN21k_384_bs16_160k",
        rows=(
            Row(None, 937.0, 4.4, 48.0),
            Row(_swin(14, 8, iterations=4, neighborhood=7, k=49), 769.0, 5.3, 47.6),
        ),
        dataset="ade20k",
    ),
    _mask2former_recipe(
        "mask2former-swin-l-ade20k-semantic",
        classes=150,
        metric="mIoU %",
        checkpoint="model_final_6b4a3a.pkl",
        origin=f"{_MASK2FORMERS}/ade20k/semantic/maskformer2_swin_large_IN21k_384_bs16_160k_res640",
        rows=(
            Row(None, 937.0, 4.3, 55.8),
            Row(
                _swin(7, 8, k=10),
                620.0,
                6.2,
                55.5,
                note="published as α 8; its settings and its count are those of 7",
            ),
        ),
        dataset="ade20k",
    ),
    _swin_recipe(
        "oneformer-swin-l-ade20k",
        image_size=(1280, 1280),
        metric="mIoU %",
        checkpoint="1280x1280_250_16_swin_l_oneformer_ade20k_160k.pth",
        origin="https://shi-labs.com/projects/oneformer/ade20k",
        rows=(
            Row(None, 1206.0, 3.52, 56.9),
            Row(_oneformer(8, 10), 1029.0, 4.02, 57.0),
            Row(_oneformer(10, 8), 898.0, 4.58, 56.5),
            Row(_oneformer(8, 8), 846.0, 4.85, 55.9),
        ),
        dataset="ade20k",
    ),
    _swin_recipe(
        "dino-swin-l-coco",
        image_size=(1152, 1152),
        metric="box AP",
        checkpoint="",
        origin=f"{_DINOS}/DINO",
        rows=(
            Row(None, 937.0, 4.42, 58.5),
            Row(_dino(16, 9), 838.0, 4.90, 58.0),
            Row(_dino(14, 8), 768.0, 5.32, 57.7),
            Row(_dino(10, 8), 683.0, 5.82, 57.0),
        ),
    ),
    _swin_recipe(
        "maskdino-swin-l-coco-instance",
        image_size=(1152, 1152),
        metric="mask AP",
        checkpoint="",
        origin=f"{_DINOS}/MaskDINO",
        rows=(
            Row(None, 937.0, 4.42, 52.3),
            Row(_dino(16, 9), 838.0, 4.90, 52.1),
            Row(_dino(10, 9), 737.0, 5.32, 51.6),
            Row(_dino(8, 8), 640.0, 5.82, 50.9),
        ),
    ),
    _swin_recipe(
        "maskdino-swin-l-coco-panoptic",
        image_size=(1152, 1152),
        metric="PQ",
        checkpoint="",
        origin=f"{_DINOS}/MaskDINO",
        rows=(
            Row(None, 937.0, 4.42, 58.3),
            Row(_dino(16, 9), 838.0, 4.75, 58.1),
            Row(_dino(12, 9), 771.0, 5.20, 57.9),
            Row(_dino(10, 8), 683.0, 5.80, 57.4),
        ),
    ),
    Recipe(
        name="swinv2-l-htc",
        model="swin:swinv2_large",
        image_size=(1024, 1024),
        classes=None,
        metric="",
        checkpoint="",
        origin="https://github.com/microsoft/Swin-Transformer",
        rows=(
            Row(None, None, None, None),
            Row(
                paper(12, 23),
                None,
                None,
                None,
                note="the paper (Figure 7) says 20 % fewer GFLOPs and 21 % more images a second, "
                "at an image size that it does not give",
            ),
        ),
    ),
)
