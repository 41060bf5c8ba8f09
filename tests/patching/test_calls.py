"""However a patched model is run, its blocks find their call; what others do to it is honoured."""

import gc
import threading
import weakref
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import (  # type: ignore[import-untyped]
    create_feature_extractor,
)

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.patching.hooks import find_sessions
from tests.hosts import (
    huggingface_beit,
    huggingface_swin,
    images,
    open_frames,
    segmenter,
    timm_beit,
    timm_swin,
    timm_vit,
    torchvision_vit,
)
from tests.published_dino import published_depth_anything

PLAN = Plan((Span(alpha=1, clusters=4),))


def patched(**changes: Any) -> Any:
    return expedite.patch(timm_vit(**changes), PLAN)


def embedded(model: Any) -> Tensor:
    tokens: Tensor = model._pos_embed(model.patch_embed(images()))
    return tokens


@pytest.mark.parametrize("is_inference", [False, True])
def test_an_own_loop_over_blocks_runs_on_clusters(is_inference: bool) -> None:
    model = patched()
    with torch.inference_mode(is_inference), torch.no_grad():
        expected = model.forward_intermediates(images(), norm=False, output_fmt="NLC")[1]
        tokens, found = embedded(model), []
        for block in model.blocks:
            tokens = block(tokens)
            found.append(tokens[:, 1:])
    for mine, due in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, due)
    assert open_frames(model) == 0
    assert expedite.describe(model).ran == (64 + 1, 17, 17, 17)


def test_what_an_own_loop_changes_goes_on() -> None:
    model = patched()
    with torch.no_grad():
        model.blocks[1](model.blocks[0](embedded(model)))
        outputs = []
        for shift in (0.0, 1.0):
            tokens = embedded(model)
            for block in model.blocks:
                tokens = block(tokens) + shift
            outputs.append(tokens - shift)
    assert outputs[0].shape == outputs[1].shape == (2, 65, 32)
    assert not torch.allclose(outputs[0], outputs[1])


def test_tokens_whose_grid_nobody_knows_are_said() -> None:
    model = patched()
    plain = timm_vit()
    tokens = torch.randn(1, 1 + 40, 32)
    with torch.no_grad(), pytest.warns(UserWarning, match="whose grid is not known"):
        assert torch.equal(model.blocks(tokens), plain.blocks(tokens))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_forward_that_was_replaced_hands_out_the_full_grid(is_first: bool) -> None:
    model = timm_vit()
    if is_first:
        expedite.patch(model, PLAN)
    model.forward = partial(model.get_intermediate_layers, n={2})
    expedite.patch(model, PLAN)
    with torch.no_grad():
        (found,) = model(images())
        (due,) = patched().get_intermediate_layers(images(), n={2})
    assert torch.equal(found, due)


def test_a_model_whose_spans_do_not_run_says_so_once() -> None:
    model = patched()
    kept = list(model.blocks)
    for index in (1, 2, 3):
        model.blocks[index] = timm_vit().blocks[index]
    with torch.no_grad():
        with pytest.warns(UserWarning, match="so nothing was saved"):
            model(images())
        model(images())
    kept.clear()
    with pytest.raises(ExpediteError, match="patch it again"):
        model(images())


@pytest.mark.parametrize(
    ("make", "node"), [(timm_vit, "norm"), (torchvision_vit, "encoder.ln"), (timm_swin, "norm")]
)
def test_code_made_of_a_model_before_it_was_patched_says_that_it_is_plain(
    make: Any, node: str
) -> None:
    model = make()
    extractor = create_feature_extractor(model, [node], suppress_diff_warning=True)
    with torch.no_grad():
        plain = extractor(images())
        expedite.patch(model, PLAN)
        with pytest.warns(UserWarning, match="of block 1 of a patched .* were run and the block"):
            assert torch.equal(extractor(images())[node], plain[node])
        extractor(images())
        expedite.unpatch(model)
        extractor(images())


@pytest.mark.parametrize("is_inference", [False, True])
@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_hook_that_changes_a_block_is_heard(index: int, is_inference: bool) -> None:
    model = patched()
    with torch.inference_mode(is_inference), torch.no_grad():
        before = model(images())
        block = model.blocks[index]
        handle = block.register_forward_hook(lambda module, args, output: None)
        torch.testing.assert_close(model(images()), before)
        handle.remove()
        block.register_forward_hook(lambda module, args, output: output.mul_(0))  # in place
        assert not torch.allclose(model(images()), before)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.filterwarnings("ignore:For backward hooks to be called:UserWarning")
@pytest.mark.parametrize("make", [timm_vit, timm_beit, huggingface_beit])
def test_hooks_on_gradients_see_what_they_see_and_change_nothing(make: Any) -> None:
    model, seen = expedite.patch(make(), PLAN), []
    expected = gradients(model, lambda: model(images()))
    for module in model.modules():  # which hand blocks copies of what they are given
        module.register_full_backward_hook(lambda *arguments: seen.append(arguments))
    for found, due in zip(gradients(model, lambda: model(images())), expected, strict=True):
        torch.testing.assert_close(found, due)
    assert seen


@pytest.mark.parametrize("path", ["norm", "blocks", "fc_norm", "blocks.2", "blocks.3"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_hooks_behind_blocks_read_the_full_grid(path: str, pool: str) -> None:
    model, seen = patched(global_pool=pool, fc_norm=False), []
    with torch.no_grad():
        expected = model(images())
        module = model.get_submodule(path)
        module.register_forward_hook(lambda module, args, output: seen.append(output.shape[1:]))
        torch.testing.assert_close(model(images()), expected)
    assert seen == [(32,)] if path == "fc_norm" else seen == [(65, 32)]


def by_blocks(model: Any, tokens: Tensor, **options: Any) -> Tensor:
    for block in model.blocks:
        tokens = checkpoint(block, tokens, **options)
    return tokens


def gradients(model: nn.Module, run: Callable[[], Tensor]) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    run().square().mean().backward()  # type: ignore[no-untyped-call]
    return [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]


@pytest.mark.parametrize("every", [1, 2, 4])
def test_checkpoints_of_rows_of_blocks_give_the_same_gradients(every: int) -> None:
    from timm.models import checkpoint_seq

    model = patched().train()
    expected = gradients(model, lambda: model(images()))
    model.set_grad_checkpointing()
    assert len(expected) > 50
    for found, due in zip(gradients(model, lambda: model(images())), expected, strict=True):
        torch.testing.assert_close(found, due)
    rows = lambda: checkpoint_seq(model.blocks, embedded(model), every=every)  # noqa: E731
    expected = gradients(model, lambda: model.blocks(embedded(model)))
    for found, due in zip(gradients(model, rows), expected, strict=True):
        torch.testing.assert_close(found, due)


def test_reentrant_checkpoints_are_right_around_spans_and_refused_within() -> None:
    model = patched().train()
    expected = gradients(model, lambda: model.blocks(embedded(model)))
    whole = partial(checkpoint, model.blocks, use_reentrant=True)
    for found, due in zip(gradients(model, lambda: whole(embedded(model))), expected, strict=True):
        torch.testing.assert_close(found, due)
    with pytest.raises(ExpediteError, match="use_reentrant=False works"):
        by_blocks(model, embedded(model), use_reentrant=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # newer names of the same
def test_checkpoints_of_transformers() -> None:
    swin: Any = huggingface_swin().train()
    expedite.patch(swin, PLAN)
    expected = gradients(swin, lambda: swin(images()))
    swin.model.gradient_checkpointing_enable()
    for found, due in zip(gradients(swin, lambda: swin(images())), expected, strict=True):
        torch.testing.assert_close(found, due)
    beit: Any = huggingface_beit().train()
    expedite.patch(beit, PLAN)
    expected = gradients(beit, lambda: beit(images()))
    beit.model.gradient_checkpointing_enable({"use_reentrant": False})
    for found, due in zip(gradients(beit, lambda: beit(images())), expected, strict=True):
        torch.testing.assert_close(found, due)
    # Of two calls at once, nobody knows in the backward pass which one a bias is made for.
    with pytest.raises(ExpediteError, match="is run again in the backward pass"):
        gradients(beit, lambda: beit(images()) + beit(2 * images()))


INSIDE = {
    timm_beit: "blocks.{}.attn",  # makes a bias
    torchvision_vit: "encoder.layers.encoder_layer_{}.self_attention",  # is given a mask
    published_depth_anything: "pretrained.blocks.{}.{}.attn",  # attends under one
    timm_swin: "layers.0.blocks.{}.attn",
}


@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.parametrize("make", list(INSIDE))
def test_attention_that_is_checkpointed_gives_the_same_gradients(
    make: Any, is_reentrant: bool
) -> None:
    kinds = {False: CheckpointImpl.NO_REENTRANT, True: CheckpointImpl.REENTRANT}
    model = expedite.patch(make(), PLAN)
    expected = gradients(model, lambda: model(images()))
    attention = [
        path for path, _ in model.named_modules() if fnmatch(path, INSIDE[make].replace("{}", "*"))
    ]
    for path in attention:
        wrapped = checkpoint_wrapper(model.get_submodule(path), checkpoint_impl=kinds[is_reentrant])
        model.set_submodule(path, wrapped)
    assert attention
    found = gradients(model, lambda: model(images()))
    for mine, due in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, due)
    (session,) = find_sessions(model)
    assert not any(session.store.held(index) for index in range(4))
    if make is timm_beit:  # found through its wrappers too
        expedite.patch(expedite.unpatch(model), PLAN)
        for mine, due in zip(gradients(model, lambda: model(images())), expected, strict=True):
            torch.testing.assert_close(mine, due)


def test_a_head_that_is_checkpointed_is_refused() -> None:
    model: Any = segmenter()
    expedite.patch(model, alpha=1, clusters=4, reconstruct_at="head")
    block = model.decoder.blocks[1]
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    gradients(model, lambda: model(images()))
    model.decoder.blocks[1] = checkpoint_wrapper(block)
    with pytest.raises(ExpediteError, match="reconstruct_at='backbone' works"):
        gradients(model, lambda: model(images()))


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, timm_swin])
@pytest.mark.parametrize("is_first", [True, False])
def test_wrapped_blocks_keep_the_plan(make: Any, is_first: bool) -> None:
    model = make()
    with torch.no_grad():
        expected = expedite.patch(make(), PLAN)(images())
        blocks = next(find_sessions(expedite.patch(model, PLAN))).host.blocks
        if not is_first:
            expedite.unpatch(model)
        paths = {id(module): path for path, module in model.named_modules()}
        for path in [paths[id(block)] for block in blocks]:
            model.set_submodule(path, checkpoint_wrapper(model.get_submodule(path)))
        if not is_first:
            expedite.patch(model, PLAN)
        torch.testing.assert_close(model(images()), expected)


def test_blocks_of_unknown_classes_are_refused() -> None:
    model = timm_vit()
    model.blocks[1] = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32)])
    with pytest.raises(ExpediteError, match="where one of timm is due"):
        expedite.patch(model, PLAN)


def test_unpatch_leaves_what_others_kept_of_it() -> None:
    model, plain = patched(), timm_vit()
    for block in model.blocks:  # as accelerate does
        block._kept = block.forward
        block.forward = partial(lambda block, *args: block._kept(*args), block)
    with torch.no_grad():
        assert torch.equal(model(images()), patched()(images()))
        expedite.unpatch(model)
        assert torch.equal(model(images()), plain(images()))
        for block in model.blocks:
            block.forward = block._kept
        assert torch.equal(model(images()), plain(images()))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TorchScript
def test_replicas_and_torchscript_are_refused() -> None:
    model: Any = patched()
    with pytest.raises(ExpediteError, match="DistributedDataParallel works"):
        model._replicate_for_data_parallel()(images())
    with pytest.raises(ExpediteError, match=r"torch\.jit\.script was asked"):
        torch.jit.script(model)
    with torch.no_grad(), pytest.raises(ExpediteError, match=r"torch\.fx"):
        torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("path", ["patch_embed.proj", "blocks.0", "blocks.2", "norm"])
def test_an_interrupt_closes_the_call(path: str) -> None:
    model = patched()

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        due = model.forward_intermediates(images(), indices=[2], intermediates_only=True)[0]
        handle = model.get_submodule(path).register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model(images())
        handle.remove()
        assert open_frames(model) == 0
        found = model.forward_intermediates(images(), indices=[2], intermediates_only=True)[0]
    assert torch.equal(found, due)


def test_a_dropped_model_is_freed_at_once() -> None:
    model = patched()
    with torch.no_grad():
        model(images())
    weight = weakref.ref(model.blocks[2].attn.qkv.weight)
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_patched_leaves_hooks_in_their_places() -> None:
    model = patched()
    model.norm.register_forward_hook(lambda *args: None)
    tables = [list(module._forward_hooks) for module in model.modules()]
    with expedite.patched(model, alpha=2, clusters=3):
        pass
    assert [list(module._forward_hooks) for module in model.modules()] == tables


@pytest.mark.parametrize("change", [expedite.unpatch, partial(expedite.patch, alpha=2, clusters=2)])
def test_a_call_ends_with_the_plan_that_it_began_with(change: Callable[[Any], Any]) -> None:
    model = patched()
    with torch.no_grad():
        before, after = model(images()), change(timm_vit())(images())
        handle = model.blocks[2].attn.register_forward_pre_hook(
            lambda module, args: threading.Thread(target=change, args=(model,)).run()
        )
        assert torch.equal(model(images()), before)
        handle.remove()
        assert torch.equal(model(images()), after)
    if change is expedite.unpatch:
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_call_that_began_unpatched_ends_so_without_a_word(index: int) -> None:
    model = timm_vit()
    with torch.no_grad():
        plain = model(images())
        handle = model.blocks[index].mlp.fc1.register_forward_pre_hook(
            lambda module, args: (expedite.patch(model, PLAN), None)[1]
        )
        assert torch.equal(model(images()), plain)
        handle.remove()
        assert torch.equal(model(images()), patched()(images()))


def test_describe_says_on_how_many_tokens_blocks_last_ran() -> None:
    model = patched()
    assert "last run" not in str(expedite.describe(model))
    with torch.no_grad():
        model(images())
    assert "last run: block 1 on 65 tokens, blocks 2 to 4 on 17 tokens" in str(
        expedite.describe(model)
    )


def test_a_size_set_after_patching_is_as_one_set_before() -> None:
    late, early = timm_vit(), timm_vit()
    early.load_state_dict(late.state_dict())
    expedite.patch(late, PLAN)
    height, width = (2 * side for side in late.patch_embed.img_size)
    for model in (late, early):
        model.set_input_size(img_size=(height, width))
    expedite.patch(early, PLAN)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(late(image), early(image))
    assert expedite.describe(late).ran == expedite.describe(early).ran == (256 + 1, 17, 17, 17)
