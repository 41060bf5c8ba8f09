import pytest
import torch
from torch import nn

from expedite.measure.memory import peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_what_was_held_at_once() -> None:
    model = nn.Sequential(nn.Linear(1000, 4000), nn.ReLU(), nn.Linear(4000, 10))
    x = torch.randn(1000, 1000)
    with torch.inference_mode():
        found = peak_memory(lambda: model(x), CPU)
    hidden = 1000 * 4000 * 4
    assert found == pytest.approx(2 * hidden, rel=0.01)  # before and after the activation


def test_what_was_there_before_does_not_count() -> None:
    held = torch.zeros(1_000_000)
    assert peak_memory(held.sum, CPU) < 1000


def test_memory_given_back_is_not_added_up() -> None:
    def call() -> None:
        for _ in range(10):
            torch.zeros(100_000)

    assert peak_memory(call, CPU) == pytest.approx(400_000, rel=0.01)


def test_nothing_allocated_is_nothing() -> None:
    assert peak_memory(lambda: None, CPU) == 0
