"""The published experiments with the commands that repeat them, as docs/reproduce.md has them.

Rows of recipes are those of `expedite.recipes`; others are of the tables of arXiv 2210.01035.
`python -m benchmarks.reproduce` writes the document anew.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from expedite.recipes import RECIPES, Recipe, Row

DOCS = Path(__file__).parents[1] / "docs/reproduce.md"
_REGION = re.compile(r"(<!-- published -->\n).*?(\n<!-- /published -->)", re.DOTALL)

# Folders as they are published, see docs/data.md.
DATA = {
    "ade20k": "--data ADEChallengeData2016 --split validation",
    "ade20k panoptic": "--data ADEChallengeData2016",
    "cityscapes": "--data cityscapes",
    "pascal context": "--data VOCdevkit/VOC2010",
    "kitti": "--data kitti --split eigen_test",
    "nyu": "--data nyu_depth_v2 --split nyudepthv2_test",
    "imagenet": "--data imagenet",
    "coco": "--data coco --split val2017",
    "images": "--data coco/val2017",
}
ADE20K = "segmenter-vit-l16-ade20k"
_HALF = "--alpha 10 --clusters 28"
_SIZES = "--alpha 10 --clusters 20,28"
_HEAD = "--reconstruct-at head"
# The published code, see `recipe.paper`: rivals begin with other settings than the paper's.
_PAPER = f"--method paper {_HEAD} --set weights=l2 --set nearest_cells=true"
_DISTANCES = "--set temperature=50 --set space=tokens --set projection=null --set log_mass=false"
_POOLED = (
    f"--method pool+weights {_HEAD} {_DISTANCES} --set delta=false --set reconstruction=knn "
    "--set weights=l2 --set k=20"
)
_BILINEAR = (
    f"--method clusters+bilinear {_HEAD} {_DISTANCES} --set hard=false --set length=0 "
    "--set nearest_cells=true"
)
_DPT = "--method paper --set temperature=1.0 --set weights=hard --set nearest_cells=true"
_DEPTH = "GFLOPs FPS δ<1.25 δ<1.25² δ<1.25³ AbsRel SqRel RMSE RMSElog SILog log10"
_FIGURE = "The figure gives no numbers; these are of the text and the tables."
_BACKBONE = (
    "The file's backbone alone is built, so GFLOPs, speed and the fidelity of its features are "
    "measured, on any images."
)
_NO_EVIT = (
    "`--method evit` does not serve torchvision's attention, which shows no queries and keys; it "
    "does timm's."
)
_SQUARE = (
    "Images are resized whole to 1152×1152, and answers read by transformers, see docs/data.md: "
    "the published code keeps their shape, so its figure is not met exactly."
)


@dataclass(frozen=True)
class Experiment:
    """A command with published rows.

    Args:
        title: What it is of.
        model: MODEL of `expedite sweep`.
        data: A key of `DATA`.
        options: What else is typed.
        head: Of the published columns.
        rows: Published cells.
        notes: Sentences below.
        plans: How many the command measures besides the unpatched model.
        file: A file of plans that the options name, and what it holds.
    """

    title: str
    model: str
    data: str
    options: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    plans: int
    file: tuple[str, str] | None = None

    @property
    def command(self) -> str:
        """What is typed."""
        checkpoint = RECIPES[self.model].checkpoint or "FILE"
        reads_none = self.model == "swinv2-l-htc"
        weights = "" if reads_none else f"--checkpoint {checkpoint}"
        words = [f"expedite sweep {self.model}", weights, DATA[self.data], self.options]
        return " ".join(filter(None, [*words, f"--out out/{self.model}"]))

    def markdown(self) -> str:
        """A section of the document."""
        lines = [[*self.head, "yours"], ["---"] * (len(self.head) + 1)]
        lines += [[*row, ""] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts = [f"### {self.title}", f"```sh\n{self.command}\n```", table, *self.notes]
        if self.file is not None:
            parts.insert(2, f"with {self.file[0]}:\n\n```yaml\n{self.file[1]}```")
        return "\n\n".join(parts)


def document(text: str) -> str:
    """The document with its tables written anew."""
    sections = "\n\n".join(experiment.markdown() for experiment in EXPERIMENTS)
    return _REGION.sub(lambda found: f"{found[1]}\n{sections}\n{found[2]}", text)


def _recipe(title: str, name: str, data: str, *notes: str, options: str = "") -> Experiment:
    """All rows of a recipe, whose plans need not be said."""
    recipe = RECIPES[name]
    remarks = [f"{' '.join(_place(row))}: {row.note}." for row in recipe.rows if row.note]
    head = ("α", "h×w", "GFLOPs", "FPS", recipe.metric or "metric")
    rows = tuple(
        (*_place(row), *map(_cell, (row.gflops, row.fps, row.metric))) for row in recipe.rows
    )
    found = (*_counting(recipe), *notes, *remarks)
    return Experiment(title, name, data, options, head, rows, found, len(rows) - 1)


def _ablation(
    title: str,
    what: str,
    options: str,
    rows: Mapping[str, tuple[str, ...]],
    *notes: str,
    figures: tuple[str, ...] = ("GFLOPs", "mIoU %"),
) -> Experiment:
    """One line a plan, of the Segmenter with ViT-L/16 on ADE20K."""
    cells = tuple((name, *values) for name, values in rows.items())
    return Experiment(title, ADE20K, "ade20k", options, (what, *figures), cells, notes, len(rows))


def _place(row: Row) -> tuple[str, str]:
    if row.plan is None:
        return "unpatched", ""
    (span,) = row.plan.spans
    height, width = span.grid_for((0, 0))
    return str(span.alpha), f"{height}×{width}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _counting(recipe: Recipe) -> list[str]:
    found = []
    if recipe.checkpoint:
        found.append(f"Weights: {recipe.origin}/{recipe.checkpoint}")
    if recipe.flops_per_multiply_add == 2:
        found.append("The published GFLOPs count a multiply-add twice; ours are half as many.")
    return found


def _depth(title: str, name: str, data: str, plan: str, *rows: str) -> Experiment:
    """A line of Table 6 before and after."""
    cells = tuple(tuple(row.split(";")) for row in rows)
    note = "The published GFLOPs count a multiply-add twice; ours are half as many."
    return Experiment(
        title, name, data, f"{plan} {_DPT}", ("", *_DEPTH.split()), cells, (note,), plans=1
    )


_POSITIONS = "- {method: paper, alpha: 10, clusters: [20, 28], beta: [2, 4, 6, 8, 10, 12, 14]}\n"

EXPERIMENTS: tuple[Experiment, ...] = (
    _ablation(
        "Table 1: λ",
        "λ",
        f"{_HALF} {_PAPER} --set neighborhood=3,5,7",
        {"3×3": ("438.6", "51.46"), "5×5": ("438.9", "51.56"), "7×7": ("439.6", "51.55")},
        "The paper's count of one setting, 438.9, is 443.84 in the README of its code.",
    ),
    _ablation(
        "Table 1: κ",
        "κ",
        f"{_HALF} {_PAPER} --set iterations=5,10,15,20",
        {
            "5": ("438.9", "51.56"),
            "10": ("439.6", "51.59"),
            "15": ("440.2", "51.62"),
            "20": ("440.8", "51.62"),
        },
    ),
    _ablation(
        "Table 1: τ",
        "τ",
        f"{_HALF} {_PAPER} --set temperature=10,25,50,75",
        {
            "10": ("438.9", "51.18"),
            "25": ("438.9", "51.35"),
            "50": ("438.9", "51.56"),
            "75": ("438.9", "51.07"),
        },
    ),
    _ablation(
        "Table 1: k",
        "k",
        f"{_HALF} {_PAPER} --set k=10,20,50",
        {"10": ("438.9", "51.34"), "20": ("438.9", "51.56"), "50": ("439.0", "51.56")},
    ),
    _ablation(
        "Table 2: cluster size",
        "h×w",
        f"--alpha 10 --clusters 8,12,16,20,24,28 {_PAPER}",
        {
            "8×8": ("274.0", "32.13"),
            "12×12": ("290.9", "44.01"),
            "16×16": ("315.1", "48.21"),
            "20×20": ("347.2", "50.17"),
            "24×24": ("388.2", "51.32"),
            "28×28": ("438.9", "51.56"),
        },
        "The unpatched model: 659.0 GFLOPs, 51.82 % (printed as 32×32).",
    ),
    _ablation(
        "Table 3: adaptive average pooling in place of clustering",
        "h×w",
        f"{_SIZES} {_POOLED}",
        {"20×20": ("46.45", "50.17"), "28×28": ("46.54", "51.56")},
        figures=("mIoU % (pooling)", "mIoU % (clustering)"),
    ),
    _ablation(
        "Table 4: bilinear upsampling in place of reconstruction",
        "h×w",
        f"{_SIZES} {_BILINEAR}",
        {"20×20": ("44.68", "50.17"), "28×28": ("44.74", "51.56")},
        figures=("mIoU % (bilinear)", "mIoU % (reconstruction)"),
    ),
    _recipe("Table 5: ViT-B/16 on ADE20K", "segmenter-vit-b16-ade20k", "ade20k"),
    _depth(
        "Table 6: KITTI",
        "dpt-hybrid-kitti",
        "kitti",
        "--alpha 5 --clusters 20",
        "DPT;810;11.38;0.959;0.995;0.999;0.062;0.222;2.573;0.092;8.282;0.027",
        "α 5, 20×20;627;14.75;0.958;0.995;0.999;0.062;0.226;2.597;0.093;8.341;0.027",
    ),
    _depth(
        "Table 6: NYUv2",
        "dpt-hybrid-nyuv2",
        "nyu",
        "--alpha 3 --clusters 14",
        "DPT;560;17.58;0.904;0.988;0.998;0.110;0.054;0.357;0.129;9.522;0.045",
        "α 3, 14×14;404;24.03;0.900;0.987;0.998;0.113;0.056;0.363;0.132;9.532;0.046",
    ),
    _recipe("Figure 1: Segmenter on ADE20K", ADE20K, "ade20k"),
    _recipe(
        "Figure 1: Segmenter on PASCAL-Context",
        "segmenter-vit-l16-pascal-context",
        "pascal context",
    ),
    _recipe("Figure 1: Segmenter on Cityscapes", "segmenter-vit-l16-cityscapes", "cityscapes"),
    _recipe("Figure 1: DPT on KITTI", "dpt-hybrid-kitti", "kitti"),
    _recipe("Figure 1: DPT on NYUv2", "dpt-hybrid-nyuv2", "nyu"),
    Experiment(
        title="Figure 4: α",
        model=ADE20K,
        data="ade20k",
        options=f"--alpha 0,2,4,6,8,10,12,14,16,18,20,22 --clusters 20,28 {_PAPER}",
        head=("α", "h×w", "mIoU %"),
        rows=(("10", "20×20", "50.17"), ("10", "28×28", "51.56")),
        notes=(_FIGURE,),
        plans=24,
    ),
    Experiment(
        title="Figure 5: α+β",
        model=ADE20K,
        data="ade20k",
        options="--plans figure5.yml",
        head=("α+β", "h×w", "mIoU %"),
        rows=(("24", "20×20", "50.17"), ("24", "28×28", "51.56")),
        notes=(
            _FIGURE,
            "Blocks that follow need features: these are reconstructed by Eq. 4, where the "
            "published code, with weights of another norm, reconstructs scores.",
        ),
        plans=14,
        file=("figure5.yml", _POSITIONS),
    ),
    Experiment(
        title="Figure 6: uniform downsampling on ADE20K",
        model=ADE20K,
        data="ade20k",
        options="--method downsample --clusters 37,36,35,34",
        head=("image", "tokens a side"),
        rows=(("592×592", "37"), ("576×576", "36"), ("560×560", "35"), ("544×544", "34")),
        notes=(_FIGURE,),
        plans=4,
    ),
    Experiment(
        title="Figure 6: uniform downsampling on PASCAL-Context",
        model="segmenter-vit-l16-pascal-context",
        data="pascal context",
        options="--method downsample --clusters 28,26,24,22",
        head=("image", "tokens a side"),
        rows=(("448×448", "28"), ("416×416", "26"), ("384×384", "24"), ("352×352", "22")),
        notes=("The figure gives no numbers, and the text no sizes; these stand for them.",),
        plans=4,
    ),
    _recipe(
        "Figure 7: HTC++ with SwinV2-L on COCO",
        "swinv2-l-htc",
        "images",
        "No file of this detector is read: the backbone has random weights, and GFLOPs and speed "
        "alone are measured.",
    ),
    _recipe(
        "Figure 8: Mask2Former on COCO, panoptic",
        "mask2former-swin-l-coco-panoptic",
        "coco",
        _SQUARE,
    ),
    _recipe(
        "Figure 8: Mask2Former on COCO, instance",
        "mask2former-swin-l-coco-instance",
        "coco",
        _SQUARE,
        options="--task instance",
    ),
    _recipe(
        "Figure 9: SWAG with ViT-L/16 on ImageNet",
        "swag-vit-l16",
        "imagenet",
        "EViT as published, at keep rates of 0.8, 0.7 and 0.5: 264.9, 227.1 and 170.2 GFLOPs, "
        f"17.4, 19.7 and 24.9 FPS, 87.9, 87.8 and 87.1 %. {_NO_EVIT}",
    ),
    _recipe(
        "Figure 9: SWAG with ViT-H/14 on ImageNet",
        "swag-vit-h14",
        "imagenet",
        "EViT as published, at keep rates of 0.7, 0.6 and 0.5: 632.3, 544.4 and 472.0 GFLOPs, 8.0, "
        f"9.2 and 10.3 FPS, 88.4, 88.3 and 88.0 %. {_NO_EVIT}",
    ),
    _recipe(
        "After the paper: Mask2Former on ADE20K, panoptic",
        "mask2former-swin-l-ade20k-panoptic",
        "ade20k panoptic",
        _SQUARE,
    ),
    _recipe(
        "After the paper: Mask2Former on ADE20K, semantic",
        "mask2former-swin-l-ade20k-semantic",
        "ade20k",
        _SQUARE,
        options="--task segmentation",
    ),
    _recipe(
        "After the paper: OneFormer on ADE20K",
        "oneformer-swin-l-ade20k",
        "images",
        _BACKBONE,
        "Models of transformers, as hf:shi-labs/oneformer_ade20k_swin_large, are measured with "
        "labels: --task panoptic, instance or segmentation.",
    ),
    _recipe("After the paper: DINO on COCO", "dino-swin-l-coco", "images", _BACKBONE),
    _recipe(
        "After the paper: MaskDINO on COCO, instance",
        "maskdino-swin-l-coco-instance",
        "images",
        _BACKBONE,
    ),
    _recipe(
        "After the paper: MaskDINO on COCO, panoptic",
        "maskdino-swin-l-coco-panoptic",
        "images",
        _BACKBONE,
    ),
    _recipe(
        "After the paper: Segment Anything with ViT-H",
        "sam-vit-h",
        "images",
        "Speed alone was published; the fidelity of features is measured besides.",
    ),
)
