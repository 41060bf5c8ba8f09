"""Plans at random on every host: each runs as it should or is refused in one sentence.

`make fuzz` tries thousands; here are a few, the same ones on every run.
"""

import os
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import expedite
from expedite.errors import ExpediteError
from tests.host_table import HOSTS, Host, tensors
from tests.hosts import images

pytestmark = pytest.mark.usefixtures("no_gradients")

PLANS = int(os.environ.get("EXPEDITE_RANDOM_PLANS", "0"))

sizes = st.one_of(
    st.fixed_dictionaries({"clusters": st.integers(1, 9)}),
    st.fixed_dictionaries({"clusters": st.tuples(st.integers(1, 9), st.integers(1, 9))}),
    st.fixed_dictionaries({"keep": st.floats(0.01, 0.99)}),
)
choices: dict[str, st.SearchStrategy[Any]] = {
    "beta": st.integers(1, 5),
    "method": st.just("paper"),
    "iterations": st.integers(1, 4),
    "neighborhood": st.sampled_from([1, 3, 5, 7, 99]),
    "temperature": st.one_of(st.just("auto"), st.floats(1e-6, 1e6)),
    "projection": st.sampled_from([None, "auto", 1, 5, 999]),
    "basis": st.sampled_from(["principal", "hashed"]),
    "space": st.sampled_from(["norm", "normalized", "tokens"]),
    "hard": st.booleans(),
    "relocated": st.floats(0, 0.5),
    "sharpness": st.floats(0, 10),
    "length": st.floats(0, 4),
    "log_mass": st.booleans(),
    "reconstruction": st.sampled_from(["local", "knn"]),
    "weights": st.sampled_from(["kriging", "linear", "softmax"]),
    "k": st.integers(1, 30),
    "delta": st.booleans(),
    "reconstruct_at": st.sampled_from(["backbone", "head"]),
    "nearest_cells": st.booleans(),
    "window_borders": st.booleans(),
    "window_padding": st.booleans(),
    "kept_shift": st.booleans(),
    "position_tables": st.sampled_from(["offsets", "resized"]),
}
some = st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=5).flatmap(
    lambda names: st.fixed_dictionaries({name: choices[name] for name in names})
)
plans = st.tuples(st.integers(0, 4), sizes, some).map(lambda p: {"alpha": p[0], **p[1], **p[2]})


@cache
def model_of(name: str) -> Any:
    return host_named(name).small().eval()


@cache
def plain_of(name: str, batch: int) -> list[torch.Tensor]:
    return [each.clone() for each in answers(host_named(name), batch)]


def host_named(name: str) -> Host:
    return next(host for host in HOSTS if host.name == name)


def answers(host: Host, batch: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return list(tensors(model_of(host.name)(images(batch, host.side, host.side))))


@settings(max_examples=PLANS or 60, derandomize=not PLANS)
@given(st.sampled_from([host.name for host in HOSTS]), plans, st.sampled_from([1, 3]))
def test_a_plan_runs_or_is_refused(name: str, plan: dict[str, Any], batch: int) -> None:
    host, model = host_named(name), model_of(name)
    plain = plain_of(name, batch)
    try:
        with expedite.patched(model, **plan):
            found = answers(host, batch)
    except ExpediteError as error:
        assert "\n" not in str(error)
    else:
        assert [each.shape for each in found] == [each.shape for each in plain]
        assert all(each.isfinite().all() for each in found)
    assert all(map(torch.equal, answers(host, batch), plain))
