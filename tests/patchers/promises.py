"""What is promised of every family, for those whose own test file holds little else."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import expedite
from expedite.operators import clustering
from tests.hosts import open_frames
from tests.patching.test_oracles import HARD

Outputs = Callable[[Any, Tensor], list[Tensor]]


def returns_to_what_it_was(model: Any, x: Tensor, outputs: Outputs, **plan: Any) -> None:
    """Whatever is read keeps its shape and is finite, something changes, all of it comes back."""
    plain = outputs(model, x)
    for log_mass in (True, False):
        found = outputs(expedite.patch(model, **plan, log_mass=log_mass), x)
        assert [t.shape for t in found] == [t.shape for t in plain]
        assert all(t.isfinite().all() for t in found)
        assert not torch.allclose(found[0], plain[0], rtol=1e-3, atol=1e-3)
        assert open_frames(model) == 0
    expedite.unpatch(model)
    assert all(map(torch.equal, outputs(model, x), plain))


def equals_the_plain_model(model: Any, x: Tensor, outputs: Outputs, **plan: Any) -> None:
    """With as many clusters as `plan` says and no shortcut, all that is read is the plain one's."""
    plain = outputs(model, x)
    for log_mass in (True, False):
        with patch.object(clustering, "_keeps_every_token", lambda grid, clusters: False):
            found = outputs(expedite.patch(model, **plan, **HARD, log_mass=log_mass), x)
        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)
    expedite.unpatch(model)


def clusters_without_loss(model: Any, x: Tensor, outputs: Outputs, **plan: Any) -> None:
    """Cells of equal tokens: the plain outputs, and not where clusters weigh as single tokens."""
    plain = outputs(model, x)
    found = outputs(expedite.patch(model, **plan, **HARD), x)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)
    expedite.unpatch(model)
