"""Processes that share a sweep: they measure what one does, and no error leaves one waiting."""

import json
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from expedite import ExpediteError
from expedite.cli import main
from expedite.cli.options import find_device
from expedite.errors import ToldElsewhereError
from expedite.evaluate.ranks import Ranks
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from tests.evaluate.shared_sweeps import run_all, run_shared
from tests.hosts import segmenter
from tests.processes import expedite, start

FIGURES = ("plan", "tokens", "gflops", "operators_gflops", "metrics", "fidelity", "retention")


@given(st.integers(0, 50), st.integers(1, 9))
def test_every_image_is_one_ranks_own(count: int, size: int) -> None:
    shards = [Ranks(rank, size).shard(count) for rank in range(size)]
    assert [index for shard in shards for index in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_one_process_shares_nothing() -> None:
    ranks = Ranks()
    assert (ranks.first(lambda: 3), ranks.each(lambda: 4), ranks.gather(lambda: 5)) == (3, 4, [5])


class Threads:
    """Stands for torch.distributed among threads, each of which is a rank."""

    def __init__(self, size: int) -> None:
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)
        self.own = threading.local()

    def gather_object(self, item: Any, collected: list[Any] | None) -> None:
        self.slots[self.own.rank] = item
        self.barrier.wait()
        if collected is not None:
            collected[:] = self.slots
        self.barrier.wait()

    def broadcast_object_list(self, shared: list[Any]) -> None:
        if self.own.rank == 0:
            self.slots[0] = shared[0]
        self.barrier.wait()
        shared[0] = self.slots[0]
        self.barrier.wait()


@pytest.fixture
def on_three(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Ranks], Any]], list[Any]]:
    """Runs something as three ranks; gives what came of each, be it an error."""

    def run(work: Callable[[Ranks], Any]) -> list[Any]:
        threads = Threads(3)
        for name in ("gather_object", "broadcast_object_list"):
            monkeypatch.setattr(torch.distributed, name, getattr(threads, name))

        def one(rank: int) -> Any:
            threads.own.rank = rank
            try:
                return work(Ranks(rank, 3))
            except Exception as error:
                return error

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(one, range(3)))

    return run


OnThree = Callable[[Callable[[Ranks], Any]], list[Any]]


def test_what_ranks_give_each_other(on_three: OnThree) -> None:
    assert on_three(lambda ranks: ranks.each(lambda: ranks.rank)) == [0, 1, 2]
    assert on_three(lambda ranks: ranks.first(lambda: 7 + ranks.rank)) == [7, 7, 7]
    assert on_three(lambda ranks: ranks.gather(lambda: ranks.rank)) == [[0, 1, 2], [], []]


@pytest.mark.parametrize("error", [ExpediteError("no such image"), OSError("no such image")])
def test_what_one_rank_cannot_do_the_first_tells(error: Exception, on_three: OnThree) -> None:
    def failing(ranks: Ranks) -> Any:
        def work() -> int:
            if ranks.rank == 1:
                raise error
            return 3

        return ranks.gather(work)

    found = on_three(failing)
    assert [str(e) for e in found] == ["no such image"] * 3
    assert [type(e) for e in found] == [ExpediteError, ToldElsewhereError, ToldElsewhereError]


def test_an_error_that_nobody_expects_keeps_its_traceback(on_three: OnThree) -> None:
    found = on_three(lambda ranks: ranks.each(lambda: [1, 2][ranks.rank]))
    assert str(found[0]).startswith("one of the processes of the sweep failed: IndexError")
    assert [type(e) for e in found] == [ExpediteError, ToldElsewhereError, IndexError]


def test_every_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: gpu)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    assert find_device("auto", 2) == find_device("cuda", 2) == torch.device("cuda:2")
    assert find_device("cuda:1", 2) == torch.device("cuda:1")
    assert find_device("cpu", 2) == torch.device("cpu")


def rows(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "results.json").read_text())["rows"]
    return [{name: row[name] for name in FIGURES} for row in found]


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_server")
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    """To the last digit, in every task; of three images, and of one."""
    two = LaunchConfig(1, 1, 2, start_method="forkserver", rdzv_backend="c10d", run_id="two")
    two.rdzv_endpoint = "localhost:0"
    elastic_launch(two, run_shared)(tmp_path / "two")  # as torchrun does
    run_all(tmp_path / "one")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 7
    for name in names:
        alone, shared = rows(tmp_path / "one" / name), rows(tmp_path / "two" / name)
        assert alone == shared
        base, patched = alone
        assert len(base["metrics"]) > 1
        # So there is something to compare; of three images the likeliest class may stay.
        assert patched["fidelity"] != base["fidelity"] or name == "classification", name


Launch = Callable[..., list[tuple[int | None, str, str]]]


@pytest.fixture
def launch(loaded_server: None, tmp_path: Path) -> Launch:
    """Starts two processes of a command, as torchrun does; gives the code, out and err of each."""

    def start_two(words: Sequence[object]) -> list[tuple[int | None, str, str]]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        running = [
            start(
                expedite, tmp_path / f"rank-{rank}", words, environment=shared | {"RANK": str(rank)}
            )
            for rank in range(2)
        ]
        return [one.wait() for one in running]

    return start_two


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """A sweep of three images into tmp_path/out; two processes share them one and two."""
    file = save_segmenter(segmenter(), Preprocessing("vit", 32, 32, 16, ""), "vit", tmp_path / "m")
    rng = np.random.default_rng(0)
    for kind, shape in (("images", (36, 48, 3)), ("annotations", (36, 48))):
        (tmp_path / kind / "val").mkdir(parents=True)
        for name in "abc":
            pixels = rng.integers(0, 5, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / "val" / f"{name}.png")
    found = ["sweep", f"segmenter:{file}", "--data", tmp_path, "--out", tmp_path / "out"]
    return [*found, "--alpha", "1,2", "--clusters", 4, "--seconds", 0, "--device", "cpu"]


@pytest.mark.slow
def test_a_sweep_goes_on_with_more_processes(
    words: list[object], launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["expedite", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    path = tmp_path / "out/results.json"
    content = json.loads(path.read_text())
    dropped = content["rows"].pop()
    path.write_text(json.dumps(content))
    first, second = launch(words)
    assert (first[0], second) == (0, (0, "", "")), first[2]
    assert "written: " in first[1]
    *before, again = json.loads(path.read_text())["rows"]
    assert before == content["rows"]  # times included: nothing was measured again
    assert {name: again[name] for name in FIGURES} == {name: dropped[name] for name in FIGURES}


@pytest.mark.slow
def test_an_error_of_one_ends_all_with_one_sentence(
    words: list[object], launch: Launch, tmp_path: Path
) -> None:
    broken = tmp_path / "images/val/c.png"
    broken.write_bytes(broken.read_bytes()[:100])
    first, second = launch(words)
    assert (first[0], second) == (2, (2, "", ""))
    *_, sentence = first[2].splitlines()
    assert sentence.startswith(f"error: {broken} cannot be read as an image")
    assert first[2].count("error: ") == 1
    assert not (tmp_path / "out").exists()


FATAL = """
import os

from tests.hosts import segmenter


def net():
    model = segmenter()
    model.pretrained_cfg = {"input_size": (3, 32, 32)}
    if os.environ["RANK"] == "1":
        model.register_forward_pre_hook(lambda *_: os._exit(9))
    return model
"""


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_others(
    words: list[object], launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "fatal.py").write_text(FATAL)
    words[1] = f"{tmp_path / 'fatal.py'}:net"
    first, second = launch(words)
    assert (first[0], second[0]) == (2, 9)
    *_, sentence = first[2].splitlines()
    assert sentence.startswith("error: a process that shares the sweep was lost")
    assert first[2].count("error: ") == 1
