import itertools

import pytest
import torch

import expedite
from expedite import ExpediteError
from expedite.measure.speed import Timing, attention_kernel, setting, time_pairs, twin
from tests.hosts import images, timm_vit

CPU = torch.device("cpu")


def test_calls_are_timed_in_turn_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    calls: list[str] = []
    timing = time_pairs(
        lambda: calls.append("a"),
        lambda: calls.append("b"),
        CPU,
        seconds=0,
        least_pairs=3,
        warmup=2,
    )
    assert calls == ["a", "b"] * 5
    assert timing.first == timing.second == Timing(1.0, 1.0, 1.0, 3)


def test_a_ratio_comes_from_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine slows down by half between pairs; the ratio of each pair stays 2.
    pairs = [(2, 1), (4, 2), (8, 4)]
    durations = [0, *(tick for a, b in pairs for tick in (0, a, 0, b)), 0]
    ticks = itertools.accumulate(durations)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    timing = time_pairs(lambda: None, lambda: None, CPU, seconds=0, least_pairs=3, warmup=0)
    assert (timing.speedup.lower, timing.speedup.median, timing.speedup.upper) == (2, 2, 2)


def test_where_work_is_queued_calls_in_a_row_stand_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: list[float] = []
    monkeypatch.setattr("time.perf_counter", lambda: sum(clock))
    monkeypatch.setattr("torch.accelerator.synchronize", lambda device: None)
    timing = time_pairs(
        lambda: clock.append(0.03),
        lambda: clock.append(0.01),
        torch.device("cuda"),
        seconds=0,
        least_pairs=2,
        warmup=0,
    )
    assert timing.first.median == pytest.approx(0.03)
    assert timing.speedup.median == pytest.approx(3)
    # Once to see how many take a tenth of a second; then four of each, twice.
    assert (clock.count(0.03), clock.count(0.01)) == (1 + 4 * 2, 4 * 2)


def test_quartiles() -> None:
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Timing(3.0, 2.0, 4.0, 5)


def test_one_pair_has_no_spread() -> None:
    with pytest.raises(ExpediteError, match="quartiles need at least 2"):
        time_pairs(lambda: None, lambda: None, CPU, least_pairs=1)


def test_a_twin_shares_weights_and_nothing_else() -> None:
    model = timm_vit()
    other = twin(model)
    assert [id(p) for p in model.parameters()] == [id(p) for p in other.parameters()]
    plain = model(images())
    expedite.patch(other, alpha=1, clusters=4)
    assert torch.equal(model(images()), plain)
    assert not torch.allclose(other(images()), plain)


def test_a_setting_says_what_was_measured_on() -> None:
    found = setting(timm_vit(), images(3))
    assert (found.batch_size, found.image_size, found.dtype) == (3, (32, 32), "float32")
    assert found.threads == torch.get_num_threads()
    for part in (found.device, "float32", "batch 3", "32×32 px", found.attention, "threads"):
        assert part in str(found)


def test_unfused_attention_is_called_so() -> None:
    model = timm_vit()
    assert attention_kernel(model, images()) != "unfused"
    for block in model.blocks:
        block.attn.fused_attn = False
    assert attention_kernel(model, images()) == "unfused"
