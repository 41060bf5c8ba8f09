"""A patched model never waits for a GPU: told by fake tensors, which need none.

Fake tensors refuse to give values, so nothing can depend on them; that no tensor goes from one
device to another is seen in the operations that run.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import expedite
from tests.fake_gpu import move
from tests.hosts import images, segmenter
from tests.patching.test_patching import HOSTS, PLAN, Make

pytestmark = pytest.mark.usefixtures("no_gradients")


class Crossings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations in which tensors of two devices meet, and tensors made of numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        # A number on the CPU goes along with a launch; nothing waits for it.
        tensors = [
            leaf
            for leaf in tree_leaves((args, kwargs, output))
            if isinstance(leaf, Tensor) and leaf.dim()
        ]
        if len({tensor.device for tensor in tensors}) > 1:
            self.found[str(func)] += 1
        return output


def crossings(model: nn.Module) -> Counter[str]:
    """Of a call on a GPU that is not there."""
    with FakeTensorMode() as fake:
        move(model, fake)
        pixels = torch.empty(images().shape, device="cuda")
        seen = Crossings()
        with seen:
            assert model(pixels).device.type == "cuda"
    return seen.found


# transformers keeps BEiT's table of offsets in a cache, where a fake one would stay.
TRIED = {name: make for name, make in HOSTS.items() if name != "transformers BEiT"}


@pytest.mark.parametrize("make", TRIED.values(), ids=TRIED)
def test_a_patch_brings_no_waiting(make: Make) -> None:
    found = crossings(expedite.patch(make(), PLAN))
    assert not found or found <= crossings(make())


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"method": "paper", "k": 4},
        {"weights": "linear"},
        {"weights": "hard", "delta": False},
        {"weights": "l2", "delta": False, "hard": False},
        {"reconstruct_at": "head"},
    ],
)
def test_no_setting_waits(plan: dict[str, Any]) -> None:
    assert not crossings(expedite.patch(segmenter(), alpha=1, clusters=(3, 5), **plan))


def test_waiting_is_seen() -> None:
    class Waits(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * torch.tensor([1.0, 2.0], device=images.device).mean()

    assert crossings(Waits())
