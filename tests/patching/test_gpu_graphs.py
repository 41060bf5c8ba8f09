"""Compiled for a GPU, a patched model is one graph in which kernels stand: told by fake tensors."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import expedite
from expedite.operators.kernels import HAS_TRITON
from tests.fake_gpu import move
from tests.hosts import images, segmenter

pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.skipif(not HAS_TRITON, reason="kernels need Triton"),
]


def compiled(model: nn.Module, dtype: torch.dtype) -> Counter[str]:
    """The operations of expedite's in the only graph of a call."""
    found: Counter[str] = Counter()

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        found.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    model.to(dtype)
    with FakeTensorMode() as fake:
        move(model, fake)
        call = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
        scores: Tensor = call(torch.empty(images().shape, device="cuda", dtype=dtype))
        assert scores.device.type == "cuda"
    return Counter({name: count for name, count in found.items() if "expedite" in name})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_stand_in_one_graph(dtype: torch.dtype) -> None:
    found = compiled(expedite.patch(segmenter(), alpha=1, clusters=(3, 5)), dtype)
    assert found["expedite.soft_step"] == 4
    one = ("nearest", "unions", "all_but_nearest", "kriging", "spread")
    assert all(found[f"expedite.{name}"] == 1 for name in one)
    # Three blocks of the backbone on clusters.
    assert found["expedite.attend"] == (3 if dtype == torch.bfloat16 else 0)


@pytest.mark.slow
def test_other_settings_go_without() -> None:
    found = compiled(
        expedite.patch(segmenter(), alpha=1, clusters=(3, 5), method="paper", k=4), torch.float32
    )
    assert not found
