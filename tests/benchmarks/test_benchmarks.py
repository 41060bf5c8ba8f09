"""The benchmarks run, on models too small for their figures to mean anything."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import typer
from rich.table import Table

import expedite
from benchmarks import accuracy, gpu, models, quantised, startup
from benchmarks.accuracy_report import write_report
from benchmarks.cases import SMALL, Measured, find_case
from benchmarks.instruments import DEMOS, Depth, demo_instrument
from expedite.evaluate.demo import demo_model
from expedite.measure.speed import PairedTiming, Timing
from expedite.patching.families import find_hosts
from expedite.patching.hooks import find_sessions
from tests.hosts import segmenter, timm_swin


def printed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of the lines of a table."""
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_of_a_gpu_in_its_small_form(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(smoke=True)
    assert [row[:3] for row in printed(capsys)] == [
        [SMALL.name, "1", "eager"],
        [SMALL.name, "2", "eager"],
    ]


def test_of_a_gpu_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(typer.Exit) as exit_:
        gpu.main(smoke=False)
    assert exit_.value.exit_code == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.usefixtures("no_gradients")
def test_free_operators_give_what_they_gave() -> None:
    pair = SMALL.make()
    free, images = pair.with_free_operators(2), pair.images(2)
    calls: list[object] = []
    for session in find_sessions(free.fast):
        for operator in session.operators:
            operator.register_forward_hook(lambda *call: calls.append(call))
    expected = pair.fast(images)
    for _ in range(2):
        assert torch.equal(free.fast(images), expected)
    assert not calls


def test_of_whole_models(capsys: pytest.CaptureFixture[str]) -> None:
    models.main(model="small", dtype="float32,bfloat16", batch_size=1, pairs=2, seconds=0)
    rows = printed(capsys)
    assert [row[1] for row in rows] == ["float32", "bfloat16"]
    assert all(row[4] == rows[0][4] for row in rows)  # what GFLOPs allow
    with pytest.raises(typer.BadParameter, match="segmenter, vit, dpt, swin, small"):
        find_case("resnet")


def test_shares_of_what_is_allowed() -> None:
    base, fast, ratio = (Timing(median, 0.0, 0.0, 5) for median in (2.0, 1.0, 1.8))
    cells = list(Measured(8, PairedTiming(base, fast, ratio), 0.5).cells(allowed=2.0))
    assert cells == ["4.00 → 8.00", "1.80 (0.00 to 0.00)", "2.00", "0.90", "0.50"]


def test_quantised_rows(capsys: pytest.CaptureFixture[str]) -> None:
    base = segmenter()
    table = Table("", "precision", "calls/s", "speed-up")

    def outputs(model: torch.nn.Module) -> list[str]:
        return [str(float(model(torch.ones(1, 3, 32, 32)).detach().sum())), ""]

    quick: Mapping[str, quantised.Change] = {
        name: change for name, change in quantised.PRECISIONS.items() if "torchao" not in name
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(quantised, "PRECISIONS", quick)
        quantised.rows(table, base, SMALL, outputs)
    sums = list(table.columns[2].cells)
    assert len(set(sums)) == 4  # every row is another model
    assert sums[0] == outputs(base)[0]  # and the first is what it was


def test_fidelity_of_the_demo_to_itself() -> None:
    model = demo_model().model
    assert quantised.fidelity(model, scenes=1)(model) == ["100.0", "100.0"]


@pytest.mark.parametrize(
    ("make", "changes"), [(segmenter, {}), (timm_swin, {"depths": (6, 2)})], ids=["vit", "swin"]
)
def test_plans_of_accuracy_fit_their_hosts(make: Callable[..., Any], changes: Any) -> None:
    model = make(**changes)
    ((_, host),) = find_hosts(model)
    usual, later, paper = (
        [accuracy.plan_at(accuracy.WAYS[way], host, (1, keep)) for keep in accuracy.KEEPS]
        for way in ("expedite", "γ=1", "paper, τ auto")
    )
    calibrated = accuracy.plan_at(accuracy.WAYS["calibrated"], host, (1, 0.5))
    assert str(calibrated.calibration).endswith("calibrated-1.safetensors")
    for plan, shorter in zip(usual, later, strict=True):
        ((_, alpha, end),) = plan.ranges(host.depth)
        assert shorter.ranges(host.depth)[0][1:] == (alpha, end - 1)
    if host.window is not None:  # of 8×8: fewer than the paper's 20 clusters at last
        assert {plan.k for plan in paper} == {20, 16, 9}
        assert all(expedite.patch(model, plan) is model for plan in paper)


@pytest.mark.parametrize("name", DEMOS)
def test_an_instrument_agrees_with_itself(name: str) -> None:
    instrument = demo_instrument(name, 2)
    answers = instrument.answers()
    assert instrument.truth is not None
    assert answers.shape == instrument.truth.shape
    own = instrument.counts(answers, answers).sum(0)
    labels = instrument.counts(instrument.truth, answers).sum(0)
    assert instrument.error(own) == 0 < instrument.error(labels)


def measured(gflops: list[float], rmse: list[float]) -> accuracy.Measured:
    """A way of as many points, on three images of four pixels each."""
    counts = np.array([[[4 * error**2, 4.0]] * 3 for error in rmse])
    points = np.array([(2, 1 / (2 + index)) for index in range(len(gflops))])
    return accuracy.Measured(points, np.array(gflops), counts, counts)


def test_tables_of_accuracy(tmp_path: Path) -> None:
    instrument = Depth("scenes", cast(Any, None), torch.zeros(3, 3, 2, 2), torch.zeros(3, 2, 2))
    cheap, dear = [2.0, 1.0], [4.0, 2.0]
    ways = {
        "unpatched": measured([8.0], [0.0]),
        "expedite": measured(cheap, [1.0, 2.0]),
        "paper, τ 50": measured(cheap, [2.0, 4.0]),
        "ToMe once": measured(dear, [1.0, 2.0]),  # at 2 GFLOPs 2, and none at 1
        "no delta": measured(cheap, [1.5, 2.0]),
    }
    write_report(tmp_path, {"scenes": (instrument, [2], ways)}, (0.5, 0.13), "scenes")
    lines = (tmp_path / "accuracy.md").read_text(encoding="utf-8").splitlines()
    assert "| the paper, best of four τ | 0.50 (0.50 to 0.50); 0.50; 0 of 2 |" in lines
    assert "| ToMe once | 0.50 (0.50 to 0.50); 0.50; 0 of 1 |" in lines
    assert "| EViT | – |" in lines
    assert {"| 50 % | 0.50; 0.50 |", "| 13 % | 0.50; 0.50 |"} <= set(lines)
    assert "| no delta | 1.25 (1.25 to 1.25) |" in lines  # 1.5 and 1
    assert "| other | scenes (withheld) |" in lines
    assert (tmp_path / "accuracy.png").stat().st_size > 0


def test_startup_compares_what_processes_take(capsys: pytest.CaptureFixture[str]) -> None:
    quick, slow = (
        (startup.HERE, ["-c", "pass"]),
        (startup.HERE, ["-c", "import time; time.sleep(.2)"]),
    )
    found = startup.compared(quick, slow, pairs=2)
    assert len(found) == 2
    assert all(wall >= 0.2 for _, (wall, _) in found)
    startup.report("nothing", found)
    assert capsys.readouterr().out.count("nothing, ") == 2
