"""SAM 3's image encoder, alone and in the models that are built around it."""

from typing import Any

import pytest
import torch
import transformers

import expedite
from expedite.operators import clustering
from tests.hosts import (
    huggingface_sam3,
    images,
)
from tests.patching.test_oracles import HARD

hf: Any = transformers  # its configs take what their annotations do not show

pytestmark = pytest.mark.usefixtures("no_gradients")


# Windows that divide the map of 8×8, that leave a border of 2, and that leave one of 3.
@pytest.mark.parametrize("window", [4, 6, 5])
@pytest.mark.parametrize("settings", [{}, {"delta": False}, {"log_mass": False}])
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    settings: dict[str, Any], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = huggingface_sam3(patch_size=4, window_size=window)
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=window, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)
