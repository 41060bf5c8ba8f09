import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from expedite.geometry.constants import Build, remembered

CPU = torch.device("cpu")


@pytest.fixture
def calls() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def count(calls: list[tuple[int, str]]) -> Build:
    @remembered
    def build(stop: int, device: torch.device) -> tuple[Tensor]:
        calls.append((stop, device.type))
        return (torch.arange(stop, device=device),)

    return build


def test_made_once_for_each_size(count: Build, calls: list[tuple[int, str]]) -> None:
    for stop in (3, 4, 3, 4):
        assert count(stop, CPU)[0].tolist() == list(range(stop))
    assert calls == [(3, "cpu"), (4, "cpu")]


def test_made_once_for_each_device(count: Build, calls: list[tuple[int, str]]) -> None:
    for device in ("meta", "cpu", "meta"):
        assert count(3, torch.device(device))[0].device.type == device
    assert calls == [(3, "meta"), (3, "cpu")]


def test_what_is_first_made_under_inference_mode_serves_gradients(count: Build) -> None:
    with torch.inference_mode():
        count(3, CPU)
    weight = torch.ones(3, requires_grad=True)
    (weight * count(3, CPU)[0]).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 1, 2]


def test_fake_tensors_are_never_remembered(count: Build) -> None:
    with FakeTensorMode():
        assert type(count(3, CPU)[0]) is not Tensor
    assert count(3, CPU)[0].tolist() == [0, 1, 2]


def test_graphs_hold_the_arithmetic(count: Build, calls: list[tuple[int, str]]) -> None:
    torch.compiler.reset()
    double = torch.compile(lambda x: x * count(3, CPU)[0], fullgraph=True, backend="eager")
    assert double(torch.ones(3)).tolist() == [0, 1, 2]


def test_no_more_than_so_many_are_kept(count: Build, calls: list[tuple[int, str]]) -> None:
    for stop in [*range(200), 0]:
        count(stop, CPU)
    assert len(calls) == 201


def test_what_is_kept_is_bounded_by_bytes() -> None:
    made: list[int] = []

    @remembered
    def large(side: int, device: torch.device) -> tuple[Tensor]:
        made.append(side)
        return (torch.empty(side, 2**20, dtype=torch.uint8, device=device),)

    for side in (40, 30, 40, 40, 80, 80):  # in MiB, of which 64 are kept
        large(side, torch.device("cpu"))
    assert made == [40, 30, 40, 80, 80]
