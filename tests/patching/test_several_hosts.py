"""Several hosts in one model, as the three ViTs of DepthPro, are patched by one call."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import expedite
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.patching.describing import the_host
from tests.hosts import randomized
from tests.patching.test_oracles import HARD

hf: Any = transformers  # its configs take what their annotations do not show
PATHS = (
    "depth_pro.encoder.patch_encoder.model",
    "depth_pro.encoder.image_encoder.model",
    "fov_model.fov_encoder.model",
)

pytestmark = pytest.mark.usefixtures("no_gradients")


def depth_pro() -> nn.Module:
    """A small DepthPro, whose three ViTs are alike."""
    vit = {
        "model_type": "dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 8,
    }
    config = hf.DepthProConfig(
        image_model_config=dict(vit),
        patch_model_config=dict(vit),
        fov_model_config=dict(vit),
        patch_size=64,
        fusion_hidden_size=16,
        intermediate_hook_ids=[2, 1],
        intermediate_feature_dims=[16, 16],
        scaled_images_feature_dims=[16, 16, 16],
        num_fov_head_layers=1,
        use_fov_model=True,
    )
    made: nn.Module = hf.DepthProForDepthEstimation(config)
    return made


@pytest.fixture(scope="module")
def shared() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = randomized(depth_pro().eval())
    return made


@pytest.fixture
def model(shared: nn.Module) -> nn.Module:
    return copy.deepcopy(shared)


def outputs(model: nn.Module) -> list[Tensor]:
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    return list(model(image).values())


def test_all_are_patched_described_and_taken_off_together(model: nn.Module) -> None:
    plain = outputs(model)
    expedite.patch(model, alpha=1, clusters=4)
    patched, found = outputs(model), expedite.describe(model)
    assert (found.path, *(other.path for other in found.others)) == PATHS
    for host in (found, *found.others):
        assert host.ran == (65, 17, 17, 17) and host.kept == ((4, 4),)
        assert f"at '{host.path}'" in str(found)
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not any(map(torch.equal, patched, plain))
    expedite.patch(model, alpha=2, clusters=4)
    assert outputs(model)[0].shape == plain[0].shape
    assert all(d.ran == (65, 65, 17, 17) for d in expedite.describe(model).others)
    assert all(map(torch.equal, outputs(expedite.unpatch(model)), plain))
    assert all(d.plan is None for d in expedite.describe(model).others)


def test_every_token_a_cluster_gives_the_plain_model(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = outputs(model)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=8, **HARD)
    for found, expected in zip(outputs(model), plain, strict=True):
        size = expected.abs().max()  # DepthPro's head, random, makes depths of millions
        torch.testing.assert_close(found / size, expected / size, atol=1e-5, rtol=0)


def test_a_block_of_with_puts_back_the_plans_of_all(model: nn.Module) -> None:
    expedite.patch(model, alpha=1, clusters=4)
    with expedite.patched(model, alpha=2, clusters=2):
        assert expedite.describe(model).others[1].kept == ((2, 2),)
    assert all(d.kept == ((4, 4),) for d in expedite.describe(model).others)


def test_gflops_count_what_each_saves(model: nn.Module) -> None:
    image, counts = torch.zeros(1, 3, 256, 256), []
    for paths in ((), PATHS[:1], PATHS[:2], PATHS):
        for path in paths:
            expedite.patch(model.get_submodule(path), alpha=1, clusters=2)
        counts.append(count_flops(model, image).total)
    assert counts == sorted(set(counts), reverse=True)
    expedite.patch(model, alpha=1, clusters=2)
    assert count_flops(model, image).total == counts[-1]


def test_one_host_alone_is_patched_by_its_path(model: nn.Module) -> None:
    expedite.patch(model.get_submodule(PATHS[1]), alpha=1, clusters=4)
    found = expedite.describe(model)
    plans = [host.plan is not None for host in (found, *found.others)]
    assert plans == [False, True, False]


def test_what_looks_at_one_host_refuses_several(model: nn.Module) -> None:
    with pytest.raises(expedite.ExpediteError, match="3 hosts were found, at 'depth_pro"):
        the_host(model)
