"""Several heads on one backbone, in small: what is asked is answered, at its own cost."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor, nn

from benchmarks import accuracy, real_instruments
from benchmarks.accuracy import Source
from benchmarks.instruments import Features, Saliency, answers_of
from benchmarks.real_instruments import Readers, Shared, Tokens, kinds, photographs
from expedite.loading import LoadedModel
from tests.hosts import images, timm_vit

SIZE = (32, 32)


class Means(nn.Module):
    """Two maps added and projected, as a head with a cost."""

    taps = (2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(32, 1, 1)

    def at_size(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        resized: Tensor = nn.functional.interpolate(self.project(sum(maps)), size)
        return resized.sigmoid()


class LastTokens(Tokens):
    taps = (4,)


def shared(kept: Path) -> Shared:
    model = Readers(timm_vit(num_classes=0), {"error": LastTokens(), "saliency": Means()}).eval()
    loaded = LoadedModel("small", model, SIZE, (0.5,) * 3, (0.5,) * 3, trained=True)
    return Shared(loaded, images(3), None, kept)


def test_readers_share_a_run_and_cost_their_own(tmp_path: Path) -> None:
    of_all = shared(tmp_path / "kept.pt")
    tokens, salient = group = [of_all.read_by(name, name) for name in ("error", "saliency")]
    assert isinstance(tokens, Features)
    assert isinstance(salient, Saliency)
    answers = answers_of(group)
    assert [tuple(each.shape) for each in answers] == [(3, 64, 32), (3, 32, 32)]
    assert all(map(torch.equal, answers, [tokens.answers(), salient.answers()]))
    assert tokens.gflops() < salient.gflops()
    backbone: Any = of_all.loaded.model.backbone
    with torch.inference_mode():
        expected = backbone.forward_features(of_all.images)[:, 1:]
    torch.testing.assert_close(answers[0], expected)


@pytest.mark.usefixtures("no_gradients")
def test_answers_are_in_float32(tmp_path: Path) -> None:
    model = shared(tmp_path / "kept.pt").loaded.model.bfloat16()
    assert {answer.dtype for answer in model(images(1).bfloat16()).values()} == {torch.float32}


def test_error_of_features_is_relative_to_their_detail() -> None:
    truth = torch.randn(5, 64, 32)
    instrument = Features("", *[None] * 3)  # type: ignore[arg-type]
    flat = truth.mean(1, keepdim=True).expand_as(truth)
    for answers, error in (
        (truth, 0),
        (flat, 100),
        (2 * truth - flat, 100),
        (3 * truth - 2 * flat, 400),
    ):
        found = instrument.error(instrument.counts(truth, answers).sum(0))
        assert found == pytest.approx(error)


def test_error_of_saliency_is_in_hundredths() -> None:
    truth = torch.rand(5, 6, 8)
    instrument = Saliency("", *[None] * 3)  # type: ignore[arg-type]
    found = instrument.error(instrument.counts(truth, truth + 0.25).sum(0))
    assert found == pytest.approx(25)


def test_a_plan_of_ones_own_is_measured_beside_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_all = shared(tmp_path / "kept.pt")
    source = Source(
        ["small error"], lambda names: [of_all.read_by("error", name) for name in names]
    )
    monkeypatch.setattr(accuracy, "sources", lambda *_: [source])
    measured: list[tuple[object, object]] = []
    usual = accuracy.measure

    def watched(group: Any, way: Any, points: Any, plain: Any, memory: Any) -> Any:
        measured.append((dict(way[1]), list(points)))
        return usual(group, way, points, plain, memory)

    monkeypatch.setattr(accuracy, "measure", watched)

    def run(keeps: str) -> list[str]:
        accuracy.main(
            tmp_path / "out",
            way=["paper, τ 1"],
            plan=['on tokens={"space": "tokens"}', 'pooled={"method": "pool"}'],
            alphas="1",
            keeps=keeps,
        )
        return (tmp_path / "out" / "accuracy.md").read_text(encoding="utf-8").splitlines()

    lines = run("0.5")
    ways = ("expedite", "paper, τ 1", "on tokens", "pooled")
    assert [sum(line.startswith(f"| {way} |") for line in lines) for way in ways] == [1, 1, 2, 2]
    assert len(measured) == 4
    measured.clear()
    run("0.5,0.25")  # one more point of those known, both of one's own
    tokens, both = {"space": "tokens"}, [(1, 0.5), (1, 0.25)]
    assert measured == [
        ({}, both[1:]),
        ({"temperature": 1.0}, both[1:]),
        (tokens, both),
        ({}, both),
    ]
    assert (tmp_path / "kept.pt").exists()


@pytest.mark.parametrize("entry", ["space", "name={", "name=3"])
def test_what_is_no_plan_is_refused(entry: str) -> None:
    with pytest.raises(typer.BadParameter, match="in JSON is due"):
        accuracy.plans_of([entry])


def test_an_instrument_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no instrument is called dinov3; there are demo"):
        accuracy.main(tmp_path, instrument=["dinov3"])
    with pytest.raises(typer.BadParameter, match="float32 and bfloat16 can be had"):
        accuracy.main(tmp_path, dtype="float16")


def test_names_of_the_real_ones() -> None:
    names = [kind.name_of(reader) for kind in kinds(Path("camvid")) for reader in kind.readers]
    assert {"dinov2-error street", "dinov2-depth scenes", "dinov2-error scenes-1036"} <= set(names)
    assert len(names) == len(set(names))


def test_photographs_are_cut_to_the_aspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 200
    Image.fromarray(picture).save(tmp_path / "wide.png")
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        wheel.write(tmp_path / "wide.png", "inside/wide.png")
    monkeypatch.setattr(real_instruments, "PHOTOGRAPHS", {"some==1": ["inside/wide.png"] * 3})
    monkeypatch.setattr(real_instruments, "fetch", lambda package: tmp_path / "wheel")
    found = list(photographs((20, 20), 2))
    assert len(found) == 2
    assert (found[0][0] > 180).all()  # the sides are gone
    assert found[0][1] is None
