"""Timing a model before and after patching, in turn and in one process, so that drift cancels.

Peak memory is `memory`. Figures mean nothing without what they were measured on: `Setting`.
"""

import copy
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from expedite.errors import ExpediteError
from expedite.measure.mode import PLAIN

Model = TypeVar("Model", bound=nn.Module)

# Seconds of calls in a row that are timed as one where work is queued.
_IN_A_ROW = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over several runs: the median and the quartiles around it."""

    median: float
    lower: float
    upper: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, lower, upper, len(seconds))


@dataclass(frozen=True)
class PairedTiming:
    """Two calls timed in turn; `speedup` is the ratio of each pair, first over second."""

    first: Timing
    second: Timing
    speedup: Timing


@dataclass(frozen=True)
class Setting:
    """Under what a figure was measured."""

    device: str
    dtype: str
    batch_size: int
    image_size: tuple[int, int]
    attention: str
    compile_mode: str
    threads: int
    torch: str

    def __str__(self) -> str:
        height, width = self.image_size
        return (
            f"{self.device}, {self.dtype}, batch {self.batch_size}, {height}×{width} px, "
            f"attention {self.attention}, compile {self.compile_mode}, {self.threads} threads, "
            f"torch {self.torch}"
        )


def time_pairs(
    first: Callable[[], object],
    second: Callable[[], object],
    device: torch.device,
    *,
    seconds: float = 2.0,
    least_pairs: int = 5,
    warmup: int = 2,
) -> PairedTiming:
    """Time two calls in turn, A B A B, for about `seconds` and at least `least_pairs` pairs.

    A GPU's work is queued while it computes, so that a call alone would be timed with what it takes
    to start: there as many calls in a row as take a tenth of a second stand for one.

    Args:
        first: The unpatched model's call.
        second: The patched model's call.
        device: Where both run; its queue is emptied before the clock is read.
        seconds: How long to go on, warm-up not counted.
        least_pairs: How many pairs at least, two or more.
        warmup: Calls of each before the first that counts.

    Example:
        >>> timing = time_pairs(lambda: None, lambda: None, torch.device("cpu"), seconds=0.0)
        >>> timing.speedup.runs
        5
    """
    if seconds < 0:
        raise ExpediteError(f"timing for {seconds} seconds was asked; 0 or more is due")
    if least_pairs < 2:
        raise ExpediteError(f"{least_pairs} pairs were asked; quartiles need at least 2")
    for _ in range(warmup):
        first()
        second()
    times = 1 if device.type == "cpu" else ceil(_IN_A_ROW / _time(first, device))
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < least_pairs or time.perf_counter() < end:
        pairs.append((_time(first, device, times), _time(second, device, times)))
    return PairedTiming(
        Timing.of([a for a, _ in pairs]),
        Timing.of([b for _, b in pairs]),
        Timing.of([a / b for a, b in pairs]),
    )


def twin(model: Model) -> Model:
    """A copy that shares all parameters and buffers, to be patched beside the original."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def setting(model: nn.Module, images: Tensor, compile_mode: str = PLAIN) -> Setting:
    """Describe under what `model` runs on `images` (B, 3, H, W)."""
    return Setting(
        device=device_name(images.device),
        dtype=str(images.dtype).removeprefix("torch."),
        batch_size=len(images),
        image_size=(images.shape[-2], images.shape[-1]),
        attention=attention_kernel(model, images),
        compile_mode=compile_mode,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def device_name(device: torch.device) -> str:
    """The maker's name of a device, where it says one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return _processor()
    return device.type


# nn.MultiheadAttention has a path of its own, which takes no mask.
_FUSED = re.compile(
    r"aten::_(?:scaled_dot_product_)?(\w+_attention\w*|native_multi_head_attention)"
)


def attention_kernel(model: nn.Module, images: Tensor) -> str:
    """Which of PyTorch's attention kernels a forward pass runs, "unfused" where it runs none."""
    activities = [ProfilerActivity.CPU]
    with torch.inference_mode(), profile(activities=activities) as profiler:
        model(images)
    found = {match[1] for event in profiler.key_averages() if (match := _FUSED.match(event.key))}
    return " and ".join(sorted(found)) or "unfused"


def _time(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds of one of so many calls in a row."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
