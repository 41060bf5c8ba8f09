"""One plan against the unpatched model: speed, memory and the time of each part."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from expedite.measure.memory import peak_memory
from expedite.measure.mode import PLAIN, Mode
from expedite.measure.parts import time_parts
from expedite.measure.speed import time_pairs


class Bench:
    """A model and its patched twin, compiled or not.

    Args:
        base: The model, unpatched.
        fast: Its twin, patched.
        mode: How both are run.
        seconds: How long to time them.
        on_step: Called with what is done next, in a few words.
    """

    def __init__(
        self,
        base: nn.Module,
        fast: nn.Module,
        mode: Mode,
        seconds: float,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.fast, self.mode, self.seconds, self.on_step = fast, mode, seconds, on_step
        self.calls = mode.compiled(base), mode.compiled(fast)

    def measure(self, images: Tensor) -> dict[str, Any]:
        """Speed, memory and, where code is not compiled, the time of each part."""
        first, second = (partial(call, images) for call in self.calls)
        batch = f"at batch {len(images)}"
        with torch.inference_mode():
            self.on_step(f"timing both models in turn {batch}")
            timing = time_pairs(first, second, images.device, seconds=self.seconds)
            self.on_step(f"measuring the memory of both models {batch}")
            before, after = (peak_memory(call, images.device) for call in (first, second))
            parts = self._parts(images)
        return {
            "base_fps": len(images) / timing.first.median,
            "patched_fps": len(images) / timing.second.median,
            "speedup": timing.speedup.median,
            "speedup_quartiles": [timing.speedup.lower, timing.speedup.upper],
            "pairs": timing.speedup.runs,
            "base_memory_mb": before / 1e6,
            "patched_memory_mb": after / 1e6,
            "parts": parts,
        }

    def _parts(self, images: Tensor) -> dict[str, Any] | None:
        if self.mode.compile != PLAIN:
            return None
        self.on_step(f"timing the parts of the patched model at batch {len(images)}")
        parts = time_parts(self.fast, images, seconds=self.seconds)
        return {**asdict(parts), "share": parts.share}
