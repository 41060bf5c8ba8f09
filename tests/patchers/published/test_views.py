"""VGGT and Depth Anything 3: views on clusters, the first whole, in both kinds of blocks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from expedite.patchers.published.alternating import turn
from expedite.patching.hooks import find_sessions
from tests.hosts import counted_reconstructions, without_positions
from tests.patching.test_oracles import HARD, blocky
from tests.published_views import Aggregator, Rope, aggregator, depth_anything_3, scenes

Read = Callable[[Any, Tensor], list[Tensor]]

pytestmark = pytest.mark.usefixtures("no_gradients")


def of_vggt(model: Any, x: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = model(x)[0]
    return outputs


def of_depth_anything_3(model: Any, x: Tensor) -> list[Tensor]:
    taps, more = model.get_intermediate_layers(x, n=[1, 3, 4, 5], export_feat_layers=[4])
    return [*(part for tap in taps for part in tap), *more]


MODELS: dict[str, tuple[Callable[[], Any], Read, int]] = {
    "VGGT": (aggregator, of_vggt, 1),
    "VGGT, two blocks of a kind": (lambda: aggregator(depth=2, in_a_row=2), of_vggt, 1),
    "Depth Anything 3": (depth_anything_3, of_depth_anything_3, 2),
    "of one view": (lambda: depth_anything_3(alt_start=-1), of_depth_anything_3, 1),
}
names = pytest.mark.parametrize("name", list(MODELS))
joint_names = pytest.mark.parametrize("name", list(MODELS)[:3])


@names
def test_patches_and_returns_to_what_it_was(name: str) -> None:
    make, read, alpha = MODELS[name]
    model, x = make(), scenes()
    plain = read(model, x)
    expedite.patch(model, alpha=alpha, clusters=(3, 4))
    patched = read(model, x)
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[-1], plain[-1], rtol=1e-3, atol=1e-3)
    assert all(map(torch.equal, read(expedite.unpatch(model), x), plain))


@names
@pytest.mark.parametrize("views", [1, 3])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, read, alpha = MODELS[name]
    model, x = make(), scenes(views=views)
    plain = read(model, x)
    expedite.patch(model, alpha=alpha, clusters=8, **HARD)
    torch.testing.assert_close(read(model, x), plain, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    torch.testing.assert_close(read(model, x), plain, rtol=2e-3, atol=2e-3)


@joint_names
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    """With log-mass in rows of all views too, where clusters stand beside whole views."""
    make, read, alpha = MODELS[name]
    model, x = without_positions(make()), blocky(scenes().flatten(0, 1), 4).reshape(2, 3, 3, 32, 32)
    for module in list(model.modules()):
        if hasattr(module, "rope"):
            module.rope = None
    plain = read(model, x)
    expedite.patch(model, alpha=alpha, clusters=4, **HARD)
    torch.testing.assert_close(read(model, x), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["VGGT", "Depth Anything 3"])
def test_the_first_of_several_views_stays_whole(name: str) -> None:
    make, read, alpha = MODELS[name]
    model = expedite.patch(make(), alpha=alpha, clusters=(3, 4))
    session = next(find_sessions(model))
    beside, joint = session.host.prefix_tokens, min(session.host.views.joint)  # type: ignore[union-attr]
    ran: list[tuple[int, ...]] = []
    for index in (joint, joint + 1):
        session.host.blocks[index].attn.register_forward_hook(  # type: ignore[union-attr]
            lambda module, args, output: ran.append(tuple(args[0].shape))
        )
    whole, clustered = beside + 64, beside + 12
    read(model, scenes(views=3))
    assert sorted(ran) == sorted(
        [(2, whole + 2 * clustered, 32), (2, whole, 32), (4, clustered, 32)]
    )
    ran.clear()
    read(model, scenes(views=1))  # no other view is told by it
    assert ran == [(2, clustered, 32), (2, clustered, 32)]


def test_what_depth_anything_3_reads_is_reconstructed_alone() -> None:
    model, x = depth_anything_3(), scenes()
    expedite.patch(model, alpha=2, clusters=(3, 4))
    *_, among_all = model.get_intermediate_layers(x, n=[2, 3, 4, 5])[0]
    with counted_reconstructions(model) as calls:
        (alone,), _ = model.get_intermediate_layers(x, n=[5])
    assert len(calls) == 2  # of the last two blocks, which are put side by side
    torch.testing.assert_close(alone, among_all, rtol=0, atol=0)


@names
def test_as_published_in_the_paper_and_without_mass(name: str) -> None:
    make, read, alpha = MODELS[name]
    model, x = make(), scenes(1)
    outputs = {}
    for log_mass in (True, False):
        expedite.patch(model, alpha=alpha, clusters=(3, 4), log_mass=log_mass)
        outputs[log_mass] = read(model, x)[-1]
    assert not torch.allclose(outputs[True], outputs[False], rtol=1e-3, atol=1e-3)
    expedite.patch(model, alpha=alpha, clusters=(3, 4), method="paper", k=12)
    assert read(model, x)[-1].isfinite().all()


@pytest.mark.parametrize("name", ["VGGT", "Depth Anything 3"])
@pytest.mark.parametrize("kind", [0, 1])
def test_hooks_of_others_see_and_change_the_full_grid(name: str, kind: int) -> None:
    make, read, alpha = MODELS[name]
    model, x = expedite.patch(make(), alpha=alpha, clusters=(3, 4)), scenes()
    block = next(find_sessions(model)).host.blocks[alpha + kind]
    expected, seen = read(model, x), []
    watching = block.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    torch.testing.assert_close(read(model, x), expected, rtol=0, atol=0)
    assert seen[0].numel() == 2 * 3 * (64 + next(find_sessions(model)).host.prefix_tokens) * 32
    watching.remove()
    block.register_forward_hook(lambda module, args, output: 2 * output)
    assert not torch.allclose(read(model, x)[-1], expected[-1], rtol=1e-2, atol=1e-2)


def test_gradients_of_checkpointed_blocks_are_those_of_blocks_that_are_not() -> None:
    model, x = expedite.patch(aggregator(), alpha=1, clusters=(3, 4)), scenes(1)
    found = []
    for is_training in (False, True):  # which is when the model checkpoints its blocks
        model.train(is_training).zero_grad()
        with torch.enable_grad():
            model(x)[0][-1].square().mean().backward()
        found.append(model.frame_blocks[1].mlp.fc1.weight.grad.clone())
    torch.testing.assert_close(*found)


def test_the_vit_that_makes_patches_is_a_host_of_its_own() -> None:
    model, x = aggregator(), scenes(1)
    plain = model(x)[0]
    expedite.patch(model, alpha=1, clusters=(3, 4))
    once = model(x)[0]
    expedite.patch(model.patch_embed, alpha=1, clusters=6)
    assert not torch.allclose(model(x)[0][0], once[0])
    assert all(map(torch.equal, expedite.unpatch(model)(x)[0], plain))


def test_positions_between_tokens_are_turned_by_angles_between_theirs() -> None:
    rope, x = Rope(), torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    at = torch.arange(20).reshape(2, 5, 2)
    torch.testing.assert_close(turn(rope, x, at.float()), rope(x, at))
    halfway = torch.full((2, 5, 2), 0.5)
    torch.testing.assert_close(
        turn(rope, turn(rope, x, halfway), halfway), rope(x, 2 * halfway.int() + 1)
    )
    assert turn(rope, x.bfloat16(), halfway).dtype == torch.bfloat16


def test_what_cannot_be_right_is_refused() -> None:
    late = depth_anything_3()
    with pytest.raises(ExpediteError, match="alpha can be 2 or more"):
        expedite.patch(late, alpha=1, clusters=4)
    model = expedite.patch(aggregator(), alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="call the model"):
        model.frame_blocks[1](torch.zeros(2, 69, 32))
    with pytest.raises(ExpediteError, match="clusters within views of a scene"):
        expedite.calibrate(expedite.unpatch(model), scenes(4)[:, 0], alpha=1)
    late = expedite.patch(late, alpha=2, clusters=4)
    mask = torch.zeros(2, 195, 195)
    late.blocks[3].register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "attn_mask": mask}), with_kwargs=True
    )
    with pytest.raises(ExpediteError, match="called with a mask"):
        late.get_intermediate_layers(scenes())


def test_copies_with_other_arguments_are_not_taken_for_the_published_ones() -> None:
    class Streaming(Aggregator):
        def forward(self, images: Tensor, past: Any = None) -> Any:
            return past

    with pytest.raises(ExpediteError, match="of no known family"):
        expedite.patch(Streaming(), alpha=1, clusters=4)
