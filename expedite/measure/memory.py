"""Peak memory of a call beyond what was there before it: activations and buffers, not weights."""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that `call` holds at most beyond what was allocated before.

    On a GPU the allocator keeps the peak; elsewhere it is added up from PyTorch's record of every
    allocation, so memory that a library takes for itself is not in it.

    Example:
        >>> peak_memory(lambda: torch.zeros(1000).sum(), torch.device("cpu")) >= 4000
        True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results = profiler.profiler.kineto_results if profiler.profiler else None
    assert results is not None  # the profiler ran
    events = sorted(_allocations(results.experimental_event_tree()))
    return max(accumulate(size for _, size in events), default=0)


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Times with the bytes then taken, or given back where negative."""
    for event in events:
        if event.tag.name == "Allocation":
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _allocations(event.children)
