"""Every moment of a call belongs to one part, told by a clock that modules move on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import expedite
from expedite.evaluate.comparators import plan_of
from expedite.measure.parts import (
    BEFORE,
    CLUSTERED,
    CLUSTERING,
    HEAD,
    OTHER,
    PARTS,
    RECONSTRUCTION,
    REST,
    Clock,
    Parts,
    Recorder,
    time_parts,
    with_marks,
)
from expedite.patching.hooks import find_sessions
from expedite.plan import Plan, Span
from tests.hosts import (
    enlarged_dpt,
    enlarged_vit_adapter,
    huggingface_swin,
    images,
    segment_anything_sam,
    segmenter,
    timm_vit,
)

pytestmark = pytest.mark.usefixtures("no_gradients")


class FakeClock(Clock):
    """Stands still but where a module says otherwise."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def between(self, start: float, end: float) -> float:
        return end - start

    def takes(self, module: nn.Module, seconds: float) -> None:
        """Let calls of a module take so long."""
        before = module.forward

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.time += seconds
            return before(*args, **kwargs)

        module.forward = slow


def parts_of(model: nn.Module, plan: Plan, images: torch.Tensor) -> dict[str, float]:
    """Blocks take 1 each, clusterings 100, weights 1000, reconstructions 10000, embedding 0.1."""
    clock = FakeClock()
    (session,) = find_sessions(expedite.patch(model, plan))
    for block in session.host.blocks:
        clock.takes(block, 1)
    for layer in session.clusterings.values():
        clock.takes(layer, 100)
    clock.takes(session.reconstruction.weigh, 1000)
    clock.takes(session.reconstruction, 10000)
    clock.takes(session.host.embedding, 0.1)
    recorder = Recorder(clock)
    with_marks(model, recorder)
    model(images)
    found = recorder.seconds(0)
    assert sum(found.values()) == pytest.approx(clock.time)  # nothing is lost
    assert tuple(found) == PARTS
    return {part: round(seconds, 1) for part, seconds in found.items() if seconds}


ONCE = Plan((Span(alpha=1, clusters=4, beta=2),))


@pytest.mark.parametrize("make", [timm_vit, segmenter, segment_anything_sam])
def test_parts_of_one_span(make: Callable[[], nn.Module]) -> None:
    assert parts_of(make(), ONCE, images()) == {
        BEFORE: 1,
        CLUSTERING: 100,
        CLUSTERED: 2,
        RECONSTRUCTION: 11000,
        OTHER: 1,
        REST: 0.1,
    }


def test_parts_of_several_spans() -> None:
    chained = (Span(1, clusters=6, beta=1), Span(2, clusters=4, beta=1), Span(4, clusters=4))
    found = parts_of(timm_vit(depth=6, global_pool="", num_classes=0), Plan(chained), images())
    # One return through two levels and one through one, each with weights of its own.
    expected = {BEFORE: 1, CLUSTERING: 300, CLUSTERED: 4, RECONSTRUCTION: 33000, OTHER: 1}
    assert found == {**expected, REST: 0.1}


def test_taps_count_as_reconstruction() -> None:
    found = parts_of(enlarged_dpt(), Plan((Span(1, clusters=4),)), images())
    # Three taps by the same weights.
    expected = {BEFORE: 1, CLUSTERING: 100, CLUSTERED: 3, RECONSTRUCTION: 31000}
    assert found == {**expected, REST: 0.1}


def test_adapters_between_blocks() -> None:
    found = parts_of(enlarged_vit_adapter(), ONCE, images())
    assert (found[BEFORE], found[CLUSTERED], found[OTHER]) == (1, 2, 1)


def test_windows_of_one_stage() -> None:
    found = parts_of(huggingface_swin(), ONCE, images())
    assert (found[BEFORE], found[CLUSTERED], found[OTHER]) == (1, 2, 3)


def test_an_exit_at_the_head_counts_there() -> None:
    plan = plan_of("expedite", 1, 4, reconstruct_at="head")
    model = segmenter()
    found = parts_of(model, plan, images())
    assert found == {BEFORE: 1, CLUSTERING: 100, CLUSTERED: 3, RECONSTRUCTION: 11000, REST: 0.1}


@pytest.mark.parametrize("method", ["pool", "tome", "tome+weights"])
def test_parts_of_rival_methods(method: str) -> None:
    found = parts_of(segmenter(), plan_of(method, 1, 4), images())
    assert {CLUSTERED, RECONSTRUCTION} <= set(found)


def test_a_smaller_image_has_blocks_alone() -> None:
    assert parts_of(segmenter(), plan_of("downsample", 0, 4), images())[CLUSTERED] == 4


def test_what_follows_the_last_block_is_the_head() -> None:
    clock, model = FakeClock(), timm_vit()
    expedite.patch(model, ONCE)
    clock.takes(model.norm, 3)
    clock.takes(model.head, 4)
    recorder = Recorder(clock)
    with_marks(model, recorder)(images())
    assert recorder.seconds(0)[HEAD] == 7


def test_marks_change_nothing() -> None:
    model = expedite.patch(enlarged_dpt(), ONCE)
    before = model(images())
    parts = time_parts(model, images(), seconds=0.0)
    assert torch.equal(model(images()), before)
    assert min(parts.seconds.values()) > 0
    assert torch.equal(with_marks(model, Recorder(FakeClock()))(images()), before)


def test_the_sum_over_the_whole() -> None:
    assert Parts({BEFORE: 1.0, HEAD: 2.0}, whole=4.0).share == 0.75
