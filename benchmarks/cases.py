"""Models of real size with the plans that they are timed under, and what is measured of each."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
import typer
from torch import Tensor, nn

from expedite.loading import load_model
from expedite.measure.flops import FlopCount, count_flops
from expedite.measure.memory import peak_memory
from expedite.measure.mode import Mode
from expedite.measure.parts import BEFORE, CLUSTERING, RECONSTRUCTION, time_parts
from expedite.measure.speed import PairedTiming, time_pairs, twin
from expedite.patching import patch
from expedite.patching.frame import Frame, Level
from expedite.patching.hooks import find_sessions

# The profiler, which adds up memory, complains on machines without a GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


CPU = torch.device("cpu")
# The model as it is, recorded once and replayed.
CUDA_GRAPH = "CUDA graph"
# Of a session, what clusters and what brings the grid back.
_OPERATORS = ("_cluster", "restore")


@dataclass(frozen=True)
class Case:
    """A model with random weights, which cost what trained ones do, and one span."""

    name: str
    spec: str
    image_size: tuple[int, int]
    alpha: int
    clusters: int | tuple[int, int]
    classes: int | None = None

    def make(self, device: torch.device = CPU) -> "Pair":
        """The model beside its patched twin in float32, with their GFLOPs."""
        torch.manual_seed(0)
        base = load_model(self.spec, self.image_size, self.classes).model.to(device)
        fast = patch(twin(base), alpha=self.alpha, clusters=self.clusters)
        image = torch.randn(1, 3, *self.image_size, device=device)
        return Pair(self, base, fast, image, count_flops(base, image), count_flops(fast, image))


CASES = {
    "segmenter": Case(
        "Segmenter ViT-L/16 at 640², α=10, 28×28", "segmenter-vit-l16-ade20k", (640, 640), 10, 28
    ),
    "vit": Case(
        "Segmenter ViT-B/16 at 640², α=4, 28×28",
        "segmenter:vit_base_patch16_384",
        (640, 640),
        4,
        28,
        classes=150,
    ),
    "dpt": Case("DPT-Hybrid at 352×1216, α=5, 20×20", "dpt-hybrid-kitti", (352, 1216), 5, 20),
    "swin": Case("Swin-L at 1152², α=10, 8×8 a window", "swin:swin_large", (1152, 1152), 10, 8),
}
# Quick, to try that everything runs: its figures mean nothing.
SMALL = Case("ViT-Ti/16 at 64²", "segmenter:vit_tiny_patch16_384", (64, 64), 2, 3, classes=4)


def papers_nearest(clusters: int) -> dict[str, int]:
    """The paper's setting k among so many clusters: its 20 are more than a small window has."""
    return {"k": min(20, clusters)}


def find_case(name: str) -> Case:
    """A case by its name, or "small"."""
    cases = {**CASES, "small": SMALL}
    if name not in cases:
        raise typer.BadParameter(f"{name} was asked; {', '.join(cases)} are known")
    return cases[name]


@dataclass(frozen=True)
class Pair:
    """A model and its patched twin, and an image (1, 3, H, W) for both."""

    case: Case
    base: nn.Module
    fast: nn.Module
    image: Tensor
    flops: FlopCount
    fewer: FlopCount

    @property
    def allowed(self) -> float:
        """The speed-up that the GFLOPs allow."""
        return self.flops.total / self.fewer.total

    def to(self, device: torch.device, dtype: torch.dtype) -> "Pair":
        """The same elsewhere or in another dtype; the weights are shared and so change for both."""
        base, fast = self.base.to(device, dtype), self.fast.to(device, dtype)
        return replace(self, base=base, fast=fast, image=self.image.to(device, dtype))

    def images(self, batch: int) -> Tensor:
        """So many images (B, 3, H, W)."""
        return self.image.expand(batch, -1, -1, -1).contiguous()

    def measure(self, batch: int, mode: str, pairs: int, seconds: float) -> "Measured":
        """Time both in turn, in `CUDA_GRAPH`, under a mode of torch.compile or none."""
        images = self.images(batch)
        with torch.inference_mode():
            first, second = (_call(model, images, mode) for model in (self.base, self.fast))
            timing = time_pairs(first, second, images.device, seconds=seconds, least_pairs=pairs)
            before, after = (peak_memory(call, images.device) for call in (first, second))
        # A replay of a CUDA graph allocates nothing.
        return Measured(batch, timing, after / before if before else None)

    def operators(self, batch: int, seconds: float) -> float:
        """What clustering and reconstruction, taps included, take over a block before α."""
        images = self.images(batch)
        with torch.inference_mode():
            parts = time_parts(self.fast, images, seconds=seconds).seconds
        return (parts[CLUSTERING] + parts[RECONSTRUCTION]) / (parts[BEFORE] / self.case.alpha)

    def with_free_operators(self, batch: int) -> "Pair":
        """The same for so many images; operators cost nothing, having remembered what they gave."""
        fast = twin(self.fast)
        (session,) = find_sessions(fast)
        methods = {name: _Remembering(getattr(session, name)) for name in _OPERATORS}
        vars(session).update(methods)
        with torch.inference_mode():
            fast(self.images(batch))
        for method in methods.values():
            method.again = cycle(method.found)
        return replace(self, fast=fast)


class _Remembering:
    """A session's method; once there is `again` it returns what that holds, call by call."""

    def __init__(self, method: Callable[..., Tensor]) -> None:
        self.method = method
        self.found: list[tuple[Tensor, list[Level]]] = []  # with the clusterings then in force
        self.again: Iterator[tuple[Tensor, list[Level]]] | None = None

    def __call__(self, frame: Frame, *arguments: Any, **keywords: Any) -> Tensor:
        if self.again is None:
            result = self.method(frame, *arguments, **keywords)
            self.found.append((result, list(frame.levels)))
        else:
            result, levels = next(self.again)
            frame.levels = list(levels)
        return result


def _call(model: nn.Module, images: Tensor, mode: str) -> Callable[[], object]:
    if mode != CUDA_GRAPH:
        return partial(Mode(compile=mode).compiled(model), images)
    for _ in range(3):  # what is made once is made before
        model(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)
    return graph.replay


@dataclass(frozen=True)
class Measured:
    """A model and its twin timed in turn, and the ratio of their peak memory where it was taken."""

    batch: int
    timing: PairedTiming
    memory: float | None = None

    def cells(self, allowed: float) -> Iterator[str]:
        """The cells of `TITLES`."""
        speedup = self.timing.speedup
        base, fast = (self.batch / one.median for one in (self.timing.first, self.timing.second))
        yield f"{base:.2f} → {fast:.2f}"
        yield f"{speedup.median:.2f} ({speedup.lower:.2f} to {speedup.upper:.2f})"
        yield f"{allowed:.2f}"
        yield f"{speedup.median / allowed:.2f}"
        yield "" if self.memory is None else f"{self.memory:.2f}"


TITLES = ("images/s", "speed-up (quartiles)", "GFLOPs allow", "measured / allowed", "peak memory")
