"""What is seen inside spans, against what the operators and the model's own hooks say."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expedite import Plan, Span, patch, unpatch
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.observe import observe
from expedite.operators.clustering import cluster
from expedite.patching.hooks import find_sessions
from expedite.plan import make_plan
from tests.hosts import (
    huggingface_swin,
    huggingface_vit,
    images,
    segmenter,
    timm_sam,
    timm_swin,
    timm_vit,
)


def outputs(model: nn.Module, block: nn.Module, pixels: Tensor) -> Tensor:
    """What a reader of a block's output gets."""
    found: list[Any] = []
    handle = block.register_forward_hook(lambda module, args, output: found.append(output))
    with torch.inference_mode():
        model(pixels)
    handle.remove()
    tokens: Tensor = found[0][0] if isinstance(found[0], tuple) else found[0]
    return tokens


def test_labels_and_errors_are_those_of_the_operators() -> None:
    model, pixels = timm_vit(), images(1)
    plan = make_plan(1, 4, beta=2, space="tokens")
    (span,) = observe(model, plan, pixels)
    assert (span.first, span.last, span.grid, span.clusters) == (2, 3, (8, 8), (4, 4))
    assert span.labels is not None
    before = outputs(model, model.blocks[0], pixels)[:, 1:]
    settings = {"projection": 64, "hard": True, "relocated": 0.3}
    _, record = cluster(before, (8, 8), (4, 4), **settings)  # type: ignore[arg-type]
    assert record.assignment is not None
    assert torch.equal(torch.from_numpy(span.labels).flatten(), record.assignment.labels[0])
    own = outputs(model, model.blocks[2], pixels)[0, 1:]
    after = outputs(patch(model, plan), model.blocks[2], pixels)[0, 1:]
    error = (after - own).norm(dim=1) / own.norm(dim=1)
    assert span.error is not None
    torch.testing.assert_close(torch.from_numpy(span.error).flatten(), error)


@pytest.mark.parametrize(
    ("make", "grid", "clusters"),
    [
        (timm_swin, (16, 16), (8, 8)),
        (huggingface_swin, (16, 16), (8, 8)),
        (timm_sam, (16, 16), (8, 8)),
        (huggingface_vit, (8, 8), (4, 4)),
        (segmenter, (8, 8), (4, 4)),
    ],
)
def test_every_kind_of_host(make: Any, grid: tuple[int, int], clusters: tuple[int, int]) -> None:
    (span,) = observe(make(), make_plan(1, 4), images(1))
    assert (span.grid, span.clusters) == (grid, clusters)
    assert span.labels is not None and span.error is not None
    assert span.labels.shape == span.error.shape == grid
    assert len(set(span.labels.flatten().tolist())) == clusters[0] * clusters[1]
    assert 0 < span.error.mean() < 2


def test_windows_are_clustered_alone() -> None:
    (span,) = observe(timm_sam(), make_plan(1, 4), images(1))
    assert span.labels is not None
    corners = [span.labels[:8, :8], span.labels[:8, 8:], span.labels[8:, :8], span.labels[8:, 8:]]
    found = [set(corner.flatten().tolist()) for corner in corners]
    assert len(set().union(*found)) == sum(map(len, found))  # no cluster is in two of them
    assert found[0] == {8 * row + column for row in range(4) for column in range(4)}


def test_as_many_clusters_as_tokens_err_nowhere() -> None:
    (span,) = observe(timm_vit(), make_plan(1, 8), images(1))
    assert span.error is not None and span.labels is not None
    assert span.error.max() < 1e-5
    assert span.labels.flatten().tolist() == list(range(64))


@pytest.mark.parametrize("make", [timm_vit, timm_swin])
def test_clusters_of_clusters_are_followed_to_the_tokens(make: Any) -> None:
    first, second = observe(make(), Plan((Span(1, 6), Span(2, 3))), images(1))
    assert first.grid == second.grid
    assert first.labels is not None and second.labels is not None
    for label in set(first.labels.flatten().tolist()):
        assert len(set(second.labels[first.labels == label].tolist())) == 1
    assert first.error is not None and second.error is not None


@pytest.mark.parametrize("method", ["pool", "tome", "evit", "tome-blocks"])
def test_rival_methods(method: str) -> None:
    (span,) = observe(timm_vit(), plan_of(method, 1, 4), images(1))
    assert span.error is not None and span.error.mean() > 0
    assert (span.labels is None) == (method == "tome-blocks")


def test_a_smaller_image_has_no_tokens_to_compare() -> None:
    (span,) = observe(timm_vit(dynamic_img_size=True), plan_of("downsample", 0, 4), images(1))
    assert span.labels is None and span.error is None


def test_nothing_stays_on_the_model() -> None:
    model = patch(timm_vit(), alpha=2, clusters=5)
    before = [len(module._forward_hooks) for module in model.modules()]
    with torch.inference_mode():
        expected = model(images(1))
    observe(model, make_plan(1, 4), images(1))
    assert [len(module._forward_hooks) for module in model.modules()] == before
    (session,) = find_sessions(model)
    assert session.plan.spans[0].alpha == 2
    assert not session.store.frames
    with torch.inference_mode():
        assert torch.equal(model(images(1)), expected)


def test_calls_of_other_threads_are_not_seen() -> None:
    model = patch(timm_vit(), alpha=1, clusters=2)
    (expected,) = observe(model, make_plan(1, 4), images(1))
    over = threading.Event()

    def others() -> None:
        while not over.is_set():
            model(images(3))

    thread = threading.Thread(target=others)
    thread.start()
    (found,) = observe(model, make_plan(1, 4), images(1))
    over.set()
    thread.join()
    assert found.labels is not None and expected.labels is not None
    assert (found.labels == expected.labels).all()


def test_a_call_that_fails_leaves_nothing() -> None:
    model = timm_vit()
    with pytest.raises(AssertionError):
        observe(model, make_plan(1, 4), torch.zeros(1, 3, 30, 30))
    assert not any(module._forward_hooks for module in model.modules())
    assert unpatch(model)(images(1)).shape == (1, 10)
