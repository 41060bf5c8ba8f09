"""A calibration's file, and that it is refused where it was not made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import expedite
from expedite.errors import ExpediteError
from expedite.patching.calibration import Calibration, signature
from expedite.patching.describing import the_host

WIDTH, DEPTH, ALPHA = 16, 4, 1


def small(seed: int = 0, depth: int = DEPTH) -> Any:
    torch.manual_seed(seed)
    return VisionTransformer(32, 4, embed_dim=WIDTH, depth=depth, num_heads=2, num_classes=0).eval()


def made_for(model: Any, drift: float = 0.0) -> Calibration:
    metric = torch.randn(WIDTH, 6, generator=torch.Generator().manual_seed(1))
    rows = drift * torch.randn(DEPTH - ALPHA, 3, WIDTH)
    return Calibration(ALPHA, metric, rows, signature(the_host(model)[1]))


def plan_settings() -> Any:
    return {"alpha": ALPHA, "keep": 0.25}


@pytest.fixture
def file(tmp_path: Path) -> str:
    made_for(small(), drift=0.1).save(tmp_path / "made.safetensors")
    return str(tmp_path / "made.safetensors")


def test_what_is_saved_is_read(file: str) -> None:
    expected, found = made_for(small()), Calibration.load(file)
    expected.save(file)
    assert found.drift.abs().max() > 0
    found = Calibration.load(file)
    assert found.alpha == expected.alpha
    for name in ("metric", "drift", "weights"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@pytest.mark.usefixtures("no_gradients")
def test_drift_is_added_after_every_block_by_spread(file: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    without = str(Path(file).with_name("still.safetensors"))
    made_for(small()).save(without)
    model = small()
    one = expedite.patch(model, alpha=ALPHA, keep=0.25, calibration=without)(images)
    other = expedite.patch(model, alpha=ALPHA, keep=0.25, calibration=file)(images)
    assert (one - other).abs().max() > 1e-3
    # Every token a cluster of its own: nothing is added, and the metric has no say.
    whole = expedite.patch(model, alpha=ALPHA, clusters=8, calibration=file)(images)
    assert torch.equal(whole, expedite.unpatch(model)(images))


@pytest.mark.usefixtures("no_gradients")
def test_the_metric_alone_says_where_distances_are_measured(tmp_path: Path) -> None:
    model = small()
    keeps_all = Calibration(
        ALPHA,
        torch.eye(WIDTH),
        torch.zeros(DEPTH - ALPHA, 3, WIDTH),
        signature(the_host(model)[1]),
    )
    keeps_all.save(tmp_path / "all.safetensors")
    images, plan = torch.randn(2, 3, 32, 32), plan_settings()
    name = str(tmp_path / "all.safetensors")
    found = expedite.patch(model, **plan, calibration=name)(images)
    exact = expedite.patch(model, **plan, basis="hashed", projection=None)(images)
    torch.testing.assert_close(found, exact)


def test_half_precision_is_the_same_model(file: str) -> None:
    plan = expedite.describe(
        expedite.patch(small().bfloat16(), alpha=ALPHA, keep=0.25, calibration=Path(file))
    ).plan
    assert plan is not None
    assert plan.calibration == file


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (lambda file: expedite.patch(small(1), alpha=1, keep=0.5, calibration=file), "not those"),
        (
            lambda file: expedite.patch(small(0, 5), alpha=1, keep=0.5, calibration=file),
            "not those",
        ),
        (lambda file: expedite.patch(small(), alpha=2, keep=0.5, calibration=file), "alpha=1"),
        (
            lambda file: expedite.patch(swin(), alpha=1, keep=0.5, calibration=file),
            "within windows",
        ),
        (lambda file: expedite.patch(small(), alpha=1, keep=0.5, calibration=3), "name of a file"),
        (
            lambda file: expedite.patch(
                small(), alpha=1, keep=0.5, calibration=file, basis="hashed"
            ),
            "together with basis",
        ),
        (
            lambda file: expedite.patch(
                small(), alpha=1, keep=0.5, calibration=file, method="paper"
            ),
            "together with",
        ),
        (
            lambda file: expedite.Plan(
                (expedite.Span(1, 4, beta=1), expedite.Span(3, 4)), calibration=file
            ),
            "2 spans",
        ),
    ],
)
def test_refused(file: str, patch: Callable[[str], Any], words: str) -> None:
    with pytest.raises(ExpediteError, match=words):
        patch(file)


def swin() -> Any:
    return timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1, 2, 1), embed_dim=12, num_heads=(1, 1, 2, 2)
    )


def test_other_files_are_refused(file: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    for content, words in ((b"", "cannot be read"), (Path(file).read_bytes()[:200], "cannot be")):
        bad.write_bytes(content)
        with pytest.raises(ExpediteError, match=words):
            Calibration.load(bad)
    save_file({"metric": torch.zeros(2, 2)}, bad)
    with pytest.raises(ExpediteError, match="holds something else"):
        Calibration.load(bad)
    made = made_for(small())
    parts = {"metric": made.metric, "drift": made.drift, "weights": made.weights}
    short = {**parts, "drift": made.drift[1:].contiguous()}  # of a block less
    for tensors, alpha in ((parts, ""), (parts, "one"), (short, "1")):
        save_file(tensors, bad, {"kind": "expedite calibration 1", "alpha": alpha})
        with pytest.raises(ExpediteError, match="holds something else"):
            Calibration.load(bad)
    with pytest.raises(ExpediteError, match="not a file"):
        Calibration.load(tmp_path / "none")
    with pytest.raises(ExpediteError, match="to be written"):
        Calibration.load(file).save(tmp_path / "no" / "folder")
